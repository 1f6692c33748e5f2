from domain.conversation.file_text import *
