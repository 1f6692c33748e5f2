from collections.abc import Sequence
from typing import Any

class Model:
    prices: Any

class Provider:
    models: Sequence[Model]

providers: Sequence[Provider]
