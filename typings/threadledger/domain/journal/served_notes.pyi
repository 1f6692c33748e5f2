from domain.journal.served_notes import *
