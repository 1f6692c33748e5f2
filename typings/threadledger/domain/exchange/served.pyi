from domain.exchange.served import *
