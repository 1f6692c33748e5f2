from domain.conversation.assistants import *
