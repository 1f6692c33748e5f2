from package.contrib.agents import *
