from domain.conversation.items import *
