from domain.conversation.native import *
