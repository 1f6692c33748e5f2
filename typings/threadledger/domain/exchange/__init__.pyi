from domain.exchange import *
