from domain.journal.webhooks import *
