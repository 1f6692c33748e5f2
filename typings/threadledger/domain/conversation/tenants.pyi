from domain.conversation.tenants import *
