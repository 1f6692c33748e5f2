from domain.exchange.client_memory import *
