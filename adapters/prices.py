"""What a run costs, from the bundled data of genai-prices (extra `prices`)."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import cache
from importlib import metadata
from typing import Any


def price(model: str, input_tokens: int, output_tokens: int) -> float | None:
    """US dollars for a run; None where genai-prices is not installed, or does not know the model."""
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    try:
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        return float(calc_price(usage, model_ref=model, provider_id="openai").total_price)
    except LookupError:
        return None


def prices_from() -> str | None:
    """Which data the prices come from, and of which date they are; None where there is none."""
    try:
        named = f"genai-prices {metadata.version('genai-prices')}"
    except metadata.PackageNotFoundError:
        return None
    newest = newest_price()
    return f"{named}, whose newest price is of {newest.isoformat()}" if newest is not None else named


@cache
def newest_price() -> date | None:
    """When the last change of a price came into force that the bundled data knows: the package gives its data no date of
    their own. None where that cannot be told."""
    try:
        from genai_prices.data import providers
    except ImportError:
        return None
    today = datetime.now(UTC).date()
    prices = (price for provider in providers for model in provider.models for price in _conditional(model.prices))
    begun = (getattr(price.constraint, "start_date", None) for price in prices)
    return max((day for day in begun if day is not None and day <= today), default=None)


def _conditional(prices: Any) -> Sequence[Any]:
    """The prices of a model that changed at some time."""
    return prices if isinstance(prices, list) else ()
