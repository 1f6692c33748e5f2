from domain.conversation.decisions import *
