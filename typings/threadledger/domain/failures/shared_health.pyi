from domain.failures.shared_health import *
