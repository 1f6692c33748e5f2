from adapters.doctor import *
