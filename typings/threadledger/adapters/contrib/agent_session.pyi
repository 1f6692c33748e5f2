from adapters.contrib.agent_session import *
