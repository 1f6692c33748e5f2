from adapters.contrib.agents import *
