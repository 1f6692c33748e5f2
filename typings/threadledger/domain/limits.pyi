from domain.limits import *
