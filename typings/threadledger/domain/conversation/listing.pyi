from domain.conversation.listing import *
