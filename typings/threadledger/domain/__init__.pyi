from domain import *
