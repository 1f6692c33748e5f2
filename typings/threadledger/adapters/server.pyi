from adapters.server import *
