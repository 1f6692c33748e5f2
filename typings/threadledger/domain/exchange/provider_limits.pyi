from domain.exchange.provider_limits import *
