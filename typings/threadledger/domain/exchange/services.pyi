from domain.exchange.services import *
