"""Compute the cost of a run from the price data bundled with genai-prices (extra `prices`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import cache
from importlib import metadata
from typing import Any


def price(
    model: str,
    input_tokens: int,
    output_tokens: int,
    endpoint: str | None = None,
    cached_tokens: int = 0,
    at: datetime | None = None,
) -> float | None:
    """Return the cost of a run in US dollars, or None if genai-prices is not installed or does not know the model.

    `endpoint` is the base URL of another provider than OpenAI; a server that genai-prices does not know has no price.
    `cached_tokens` are those of the input tokens that the provider read from its cache. Prices are those at a time, by
    default of now.
    """
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    try:
        cached = {"cache_read_tokens": min(cached_tokens, input_tokens)} if cached_tokens else {}
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, **cached)
        place = {"provider_id": "openai"} if endpoint is None else {"provider_api_url": endpoint}
        return float(calc_price(usage, model_ref=model, genai_request_timestamp=at, **place).total_price)
    except LookupError:
        return None


def prices_from() -> str | None:
    """Return the source of the prices with its version and date, or None if genai-prices is not installed."""
    try:
        named = f"genai-prices {metadata.version('genai-prices')}"
    except metadata.PackageNotFoundError:
        return None
    newest = newest_price()
    return f"{named}, newest price dated {newest.isoformat()}" if newest is not None else named


@cache
def newest_price() -> date | None:
    """Return the start date of the newest price in the bundled data that is already in force, or None if it is unknown.

    It serves as the date of the data, because genai-prices does not date its data.
    """
    try:
        from genai_prices.data import providers
    except ImportError:
        return None
    today = datetime.now(UTC).date()
    prices = (price for provider in providers for model in provider.models for price in _conditional(model.prices))
    begun = (getattr(price.constraint, "start_date", None) for price in prices)
    return max((day for day in begun if day is not None and day <= today), default=None)


def _conditional(prices: Any) -> Sequence[Any]:
    """Return the dated prices of a model; empty if its price never changed."""
    return prices if isinstance(prices, list) else ()
