"""Define what a budget is, and the port that reserves and settles what runs cost in the transaction of their events.

Amounts are whole billionths of a US dollar, so that sums are exact in every database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..conversation.events import ConversationDeleted, ConversationDescribed, Event, RunFailed
from ..conversation.messages import Usage

if TYPE_CHECKING:
    from ..conversation import Conversation
    from .ports import Also

T = TypeVar("T")

BILLIONTHS = 10**9
"""Number of units in one US dollar."""

PER_CONVERSATION = "THREADLEDGER_MAX_COST_PER_CONVERSATION"
PER_OWNER_DAY = "THREADLEDGER_MAX_COST_PER_OWNER_DAY"

Price = Callable[[str, str, Usage, datetime], float | None]
"""Function that returns the cost in US dollars of (backend, model, usage) at a time; None if the price is unknown."""


class OverBudget(Exception):
    """Raised in a commit whose run may cost more than a budget has left: nothing is written."""

    def __init__(self, setting: str, limit: int, used: int) -> None:
        super().__init__(setting)
        self.setting, self.limit, self.used = setting, limit, used


@dataclass(frozen=True)
class BudgetLimits:
    """Hold the limits of a ledger in US dollars; None is no limit."""

    conversation: float | None = None
    owner_day: float | None = None
    """Limit of all conversations of one owner on one day (UTC)."""
    output_tokens: int = 0
    """Number of output tokens that are reserved for a run that sets no limit itself."""

    def setting_for(self, owner: str) -> str:
        """Return the setting that limits the conversations of an owner, the narrower one first; empty if none does."""
        if self.conversation is not None:
            return PER_CONVERSATION
        return PER_OWNER_DAY if self.owner_day is not None and owner else ""


class Payer(NamedTuple):
    """Name those in whose budgets a run counts: one conversation of its key, and the owner that it has at that moment.

    A commit and a reader of the log pass the same events to `after`, so that both count a run in the same budgets.
    """

    deleted_version: int = 0
    """Version at which the key's previous conversation was deleted; 0 for the first one."""
    owner: str = ""

    def after(self, event: Event) -> Payer:
        """Return the payer after the next event of the stream."""
        if isinstance(event, ConversationDeleted):
            return Payer(event.originator_version)
        if isinstance(event, ConversationDescribed) and isinstance(event.owner, str):
            return self._replace(owner=event.owner)
        return self


class Budgets(Protocol):
    """Keep what the runs of a ledger cost, by conversation, and by owner and day."""

    @property
    def limits(self) -> BudgetLimits: ...

    @property
    def price(self) -> Price: ...

    def prepare(self) -> None:
        """Take over what the log holds and was not counted yet; called before the first commit of a process."""
        ...

    def note(self, cursor: Any, payer: Payer, decided: Sequence[Event]) -> None:
        """Reserve and settle the costs of the runs that start and end in a commit, in its transaction.

        `payer` is that of the conversation before the commit.

        Raises:
            OverBudget: a reservation does not fit.
        """
        ...

    def rebuild(self) -> None:
        """Count all costs again from the log."""
        ...


def owner_of(conversation: Conversation) -> str:
    """Return the owner of a conversation; empty if it has none."""
    owner = (conversation.state.described or {}).get("owner")
    return owner if isinstance(owner, str) else ""


def noting(
    budgets: Budgets, decide: Callable[[Conversation], T], also: Also | None, decided: Sequence[Event]
) -> tuple[Callable[[Conversation], T], Also]:
    """Return a decision and its notes, extended by the costs of the runs among the decided events."""
    budgets.prepare()
    payers = [Payer()]

    def decide_first(conversation: Conversation) -> T:
        state = conversation.state  # before the decision, which changes it
        payers[0] = Payer(state.deleted_version or 0, owner_of(conversation))
        return decide(conversation)

    def note(cursor: Any) -> None:
        if also is not None:
            also(cursor)
        budgets.note(cursor, payers[0], decided)

    return decide_first, note


def billionths(dollars: float) -> int:
    """Return an amount in billionths of a US dollar, rounded up."""
    return ceil(round(dollars * BILLIONTHS, 3))


def in_dollars(amount: int) -> str:
    """Return an amount for users, such as `0.0125 USD`."""
    return f"{amount / BILLIONTHS:.6f}".rstrip("0").rstrip(".") + " USD"


def cost_of(price: Price, backend: str, models: Sequence[str | None], usage: object, at: datetime) -> int | None:
    """Return what a completed run cost by its reported usage; None if the usage or the price of all models is unknown."""
    counted = usage_in(usage)
    if not counted.total_tokens:
        return None
    prices = (price(backend, model, counted, at) for model in dict.fromkeys(models) if model)
    found = next((each for each in prices if each is not None), None)
    return billionths(found) if found is not None else None


def usage_in(stored: object) -> Usage:
    """Return the counts of a stored usage; what is no count is 0."""
    given = stored if isinstance(stored, dict) else {}
    counts = {name: given.get(name) for name in ("input_tokens", "output_tokens", "cached_tokens")}
    return Usage(**{name: count for name, count in counts.items() if type(count) is int and count >= 0})


def is_free(failed: RunFailed, started_version: int) -> bool:
    """Return whether a failed run certainly cost nothing: it was refused before anything else was journaled.

    Of all others it is unknown what the provider charges, so their whole reservation counts as spent.
    """
    is_refusal = failed.status == "refused" or (failed.http_status or 0) >= 400 or failed.code in _NOT_SENT
    return is_refusal and not failed.partial_text and failed.originator_version == started_version + 1


_NOT_SENT = ("missing_credentials", "redirect_refused")
