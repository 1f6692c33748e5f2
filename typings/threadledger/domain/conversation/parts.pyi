from domain.conversation.parts import *
