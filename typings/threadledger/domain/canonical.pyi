from domain.canonical import *
