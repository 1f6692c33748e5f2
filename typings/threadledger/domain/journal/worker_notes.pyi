from domain.journal.worker_notes import *
