from domain.errors import *
