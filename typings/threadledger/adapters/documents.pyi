from adapters.documents import *
