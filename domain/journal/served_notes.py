"""Define the notes of the served API: which process answers an exchange, and which responses were not fully sent.

They are locks and no truth. Without them, an exchange whose process has ended is closed at its deadline, and a request
that is sent again without an idempotency key counts as another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .ports import Also

EXCHANGE_CLAIM_SECONDS_MAX = 86_400.0
"""How long a server extends its claims on exchanges after it made the newest one, in seconds: the longest deadline."""

UNSENT_SECONDS_MAX = 3_600.0
"""How long a request whose response was not fully sent is recognised when it is sent again, in seconds: longer than an SDK
repeats it with its own time limit of ten minutes."""

ClaimedExchange = tuple[str, str]
"""Stream of a conversation, and the id of one of its exchanges."""


class ServedNotes(Protocol):
    """Keep the notes of the served API in the ledger's database.

    The claims of a process are extended in the background until they are given up or the process ends.
    """

    def claim(self, stream: str, exchange_id: str) -> Also:
        """Return what claims an exchange for this process in the transaction of an append, whoever held it before.

        It is for appends that make the exchange run: its request, or the results of tools for which it waited. The process
        whose append is committed answers it.
        """
        ...

    def wait(self, stream: str, exchange_id: str, until: str) -> Also:
        """Return what ends this process's claim on an exchange that waits for results of tools until a time (ISO 8601).

        It is for the append of the tool calls. Written later, it could end the claim of the append of their results.
        An exchange that another process has claimed meanwhile stays with it.
        """
        ...

    def note(self, request: str, fingerprint: str) -> Also:
        """Return what notes a request in the transaction of its append; a request that is noted already stays as it is."""
        ...

    def unsent(self, fingerprint: str) -> str | None:
        """Return the newest request with this fingerprint whose response was not fully sent; None if there is none.

        A request of more than `UNSENT_SECONDS_MAX` ago is not returned.
        """
        ...

    def fingerprint_of(self, request: str) -> str | None:
        """Return the fingerprint with which a request was noted; None if it was not, or if its note was removed since."""
        ...

    def settle(self, *, sent: Sequence[str] = (), ended: Sequence[ClaimedExchange] = ()) -> None:
        """Note what has ended, in one transaction; nothing is written if nothing has.

        Args:
            sent: requests whose response was fully sent; those that are too old for a repeated one are removed too.
            ended: exchanges that have ended: nobody claims them any longer.
        """
        ...

    def hold(self, stream: str, exchange_id: str) -> bool:
        """Claim an exchange for this process unless another one holds it; return whether this process holds it now.

        An exchange that waits is held by nobody.
        """
        ...

    def abandoned(self, limit: int) -> list[ClaimedExchange]:
        """Return up to `limit` claimed exchanges that no living process holds, those that ended first before the others.

        If there are more, the tenants take turns.

        One that waits is among them when its time is over. Nothing is claimed: call `hold`, which only one process succeeds
        with.
        """
        ...

    def release_all(self) -> None:
        """Give up all claims of this process, so that another one finds their exchanges abandoned at once."""
        ...


def together(*notes: Also | None) -> Also:
    """Return what writes several notes in one transaction, in their order; None stands for nothing."""

    def note(cursor: Any) -> None:
        for each in notes:
            if each is not None:
                each(cursor)

    return note
