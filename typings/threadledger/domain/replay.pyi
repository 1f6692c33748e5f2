from domain.replay import *
