from domain.memory.rendering import *
