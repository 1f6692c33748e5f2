from domain.exchange.recorded_tools import *
