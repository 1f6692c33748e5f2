"""What a ledger may call: put together by the composition root, used by the drivers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from .errors import ThreadledgerError
from .exchange import Policy
from .journal import Journal
from .ports import Backend, BackendRequest, ThreadMirror, ToolFunction
from .profiles import Profile

logger = logging.getLogger("threadledger.threads")


class Outbox(Protocol):
    """Brings the provider's threads up to the journal: at least once, reconciled, in order."""

    def mirror(self, journal: Journal, key: str) -> None:
        """Send what the threads of a conversation lack. Never raises for a provider: a thread that lags catches up later."""
        ...

    def prepare(self, journal: Journal, request: BackendRequest, backend: Backend) -> BackendRequest:
        """The request with its thread, brought up to the journal, or with what it lacks for the backend to take along.

        Raises:
            ProviderRefused: the thread could not be made, read or written.
        """
        ...

    def release(self, key: str, mirror: str, exchange_id: str) -> None:
        """Give back the thread that `prepare` took for an exchange whose run has failed."""
        ...

    def settle(self, key: str, mirror: str, thread_id: str, version: int, holder: str | None = None) -> None:
        """Note that the thread holds everything up to a version, because the backend wrote it there itself."""
        ...


@dataclass(frozen=True)
class Outside:
    """Backends by name and in the policy's order, mirrors by name, the outbox, the profile and its tools."""

    policy: Policy = field(default_factory=Policy)
    backends: Mapping[str, Backend] = field(default_factory=dict)
    mirrors: Mapping[str, ThreadMirror] = field(default_factory=dict)
    mirrored_to: str = "conversations"
    """The kind of thread that memory is mirrored to (`none` for no thread)."""
    outbox: Outbox | None = None
    price: Callable[[str, int, int], float | None] | None = None
    """US dollars for (model, input tokens, output tokens); None where the model's price is not known."""
    profile: Profile = field(default_factory=Profile)
    tools: Mapping[str, ToolFunction] = field(default_factory=dict)
    wait: Callable[[float], None] = time.sleep
    random: Random = field(default_factory=Random)
    close: Callable[[], None] = lambda: None
    """Lets go of connections."""

    def mirror(self, journal: Journal, key: str) -> None:
        """Bring a conversation's threads up to the journal, where there is an outbox.

        What was journaled is journaled: an error here is logged, and the threads catch up later.
        """
        if self.outbox is None:
            return
        try:
            self.outbox.mirror(journal, key)
        except ThreadledgerError as error:
            logger.warning("the threads of %r lag behind: %s", key, error)
