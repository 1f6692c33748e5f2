from domain.alignment import *
