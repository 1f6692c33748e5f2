from domain.effects import *
