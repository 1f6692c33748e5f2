from domain.conversation.completions import *
