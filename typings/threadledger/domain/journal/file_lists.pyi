from domain.journal.file_lists import *
