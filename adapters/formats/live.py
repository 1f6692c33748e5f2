"""Import threads from a provider.

Each thread is read completely before any of it is journaled. A thread that is missing does not stop the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from threadledger.domain.effects import Effects, perform
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import diagnose
from threadledger.domain.ledger import Ledger

from .importing import import_found
from .reading import Found, Imported
from .threads import KEY, conversation_of, threads_of


class ReadsThreads(Protocol):
    """Read a provider's threads; see `adapters/openai/thread_import.py`."""

    def read(self, thread_id: str) -> Effects[dict[str, Any]]: ...

    def is_fatal(self, refused: ProviderRefused) -> bool: ...


def import_threads(
    ledger: Ledger,
    reader: ReadsThreads,
    ids: Iterable[tuple[int, str]],
    key_from: str = KEY,
    wait: Callable[[float], None] = time.sleep,
    tenant: str = "",
) -> Iterator[Imported]:
    """Import threads by id; `ids` holds each id with its line number. For `tenant`, see `import_found`.

    Raises:
        ProviderRefused: the provider refuses all requests, for example because of the API key. Threads that were read
            before are imported.
    """
    refusals: list[ProviderRefused] = []

    def found() -> Iterator[Found | Imported]:
        for line, thread_id in ids:
            try:
                yield _conversation(perform(reader.read(thread_id), wait), line)
            except ProviderRefused as refused:
                if reader.is_fatal(refused):
                    refusals.append(refused)
                    return
                yield Imported(line, thread_id, "failed", reason=_reason(thread_id, refused))

    def _conversation(read: dict[str, Any], line: int) -> Found | Imported:
        (thread,) = threads_of(read, line)
        return conversation_of(thread, key_from)

    yield from import_found(ledger, found(), tenant=tenant)
    if refusals:
        raise refusals[0]


def _reason(thread_id: str, refused: ProviderRefused) -> str:
    return f"{thread_id} cannot be read: {diagnose(refused.failure).value} ({refused})"
