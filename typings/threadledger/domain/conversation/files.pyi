from domain.conversation.files import *
