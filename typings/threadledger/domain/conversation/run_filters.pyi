from domain.conversation.run_filters import *
