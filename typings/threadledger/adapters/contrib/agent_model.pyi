from adapters.contrib.agent_model import *
