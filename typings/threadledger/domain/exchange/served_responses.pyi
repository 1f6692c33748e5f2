from domain.exchange.served_responses import *
