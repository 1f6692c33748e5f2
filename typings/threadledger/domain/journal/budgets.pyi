from domain.journal.budgets import *
