# What adapters/prices.py uses. Type checkers take a minute for the package itself, whose data is one literal of 1.6 MB.
from datetime import datetime
from decimal import Decimal

class Usage:
    def __init__(
        self,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cache_read_tokens: int | None = None,
    ) -> None: ...

class PriceCalculation:
    @property
    def total_price(self) -> Decimal: ...

def calc_price(
    usage: Usage,
    model_ref: str,
    *,
    provider_id: str | None = None,
    provider_api_url: str | None = None,
    genai_request_timestamp: datetime | None = None,
) -> PriceCalculation: ...
