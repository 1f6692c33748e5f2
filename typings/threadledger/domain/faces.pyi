from domain.faces import *
