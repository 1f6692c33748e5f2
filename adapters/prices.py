"""What a run costs, from the bundled data of genai-prices (extra `prices`)."""

from importlib import metadata


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
    """Which data the prices come from; None where there is none."""
    try:
        return f"genai-prices {metadata.version('genai-prices')}"
    except metadata.PackageNotFoundError:
        return None
