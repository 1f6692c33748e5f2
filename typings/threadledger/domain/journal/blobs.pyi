from domain.journal.blobs import *
