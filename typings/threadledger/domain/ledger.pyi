from domain.ledger import *
