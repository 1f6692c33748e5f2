from domain.journal import *
