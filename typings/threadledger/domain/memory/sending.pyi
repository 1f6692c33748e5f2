from domain.memory.sending import *
