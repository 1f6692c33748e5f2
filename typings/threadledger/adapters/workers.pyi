from adapters.workers import *
