from domain.journal.places import *
