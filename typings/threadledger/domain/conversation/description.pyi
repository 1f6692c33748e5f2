from domain.conversation.description import *
