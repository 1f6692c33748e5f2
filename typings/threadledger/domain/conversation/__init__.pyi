from domain.conversation import *
