"""Connect the budgets of a ledger with the prices of its backends; only a ledger that needs costs loads this."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from threadledger.domain.conversation.messages import Usage
from threadledger.domain.journal.budgets import BudgetLimits, Budgets, Price

from .prices import price
from .settings import Settings
from .sql import Database, SqlBudgets


def budgets_of(settings: Settings, database: Database, price_of: Price) -> Budgets:
    """Return the budgets that the settings define."""
    limits = BudgetLimits(
        settings.max_cost_per_conversation, settings.max_cost_per_owner_day, settings.budget_output_tokens
    )
    return SqlBudgets(database, limits, price_of)


def price_of_run(settings: Settings, backend: str, model: str, usage: Usage, at: datetime) -> float | None:
    """Return what a usage costs on a backend at a time, in US dollars; None if the price is unknown."""
    endpoint = _endpoint(settings, backend) if backend in settings.named else None
    return price(model, usage.input_tokens, usage.output_tokens, endpoint, usage.cached_tokens, at)


@lru_cache(maxsize=100)
def _endpoint(settings: Settings, backend: str) -> str | None:
    """Return the address of a named backend; None if it is that of the provider."""
    from .named_backends import Endpoints
    from .wiring import client_of

    return Endpoints(settings, client_of(settings)).elsewhere().get(backend)
