from domain.arguments import *
