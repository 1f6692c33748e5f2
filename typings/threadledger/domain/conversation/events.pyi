from domain.conversation.events import *
