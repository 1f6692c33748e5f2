from domain.memory import *
