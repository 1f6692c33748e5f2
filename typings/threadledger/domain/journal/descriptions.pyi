from domain.journal.descriptions import *
