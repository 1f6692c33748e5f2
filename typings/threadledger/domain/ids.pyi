from domain.ids import *
