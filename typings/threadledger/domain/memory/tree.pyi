from domain.memory.tree import *
