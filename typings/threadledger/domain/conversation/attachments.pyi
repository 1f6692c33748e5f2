from domain.conversation.attachments import *
