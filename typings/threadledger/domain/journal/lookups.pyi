from domain.journal.lookups import *
