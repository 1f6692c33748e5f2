from domain.journal.uploads import *
