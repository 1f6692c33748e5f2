from domain.threads import *
