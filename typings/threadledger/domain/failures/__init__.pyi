from domain.failures import *
