from domain.provider_errors import *
