from domain.durations import *
