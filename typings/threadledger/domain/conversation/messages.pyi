from domain.conversation.messages import *
