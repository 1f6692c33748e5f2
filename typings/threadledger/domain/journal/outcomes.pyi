from domain.journal.outcomes import *
