"""What a ledger may call: put together by the composition root, used by the drivers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from .effects import Effects
from .errors import ThreadledgerError
from .exchange import Policy
from .health import Health
from .journal import Journal
from .ports import Backend, BackendRequest, ThreadMirror, ToolFunction
from .profiles import Profile
from .turns import Turns

logger = logging.getLogger("threadledger.threads")


class Outbox(Protocol):
    """Brings the provider's threads up to the journal: at least once, reconciled, in order."""

    def mirror(self, journal: Journal, key: str) -> Effects[None]:
        """Send what the threads of a conversation lack. Never raises for a provider: a thread that lags catches up later."""
        ...

    def prepare(self, journal: Journal, request: BackendRequest, backend: Backend) -> Effects[BackendRequest]:
        """The request with its thread, brought up to the journal, or with what it lacks for the backend to take along.

        Raises:
            ProviderRefused: the thread could not be made, read or written.
        """
        ...

    def release(self, request: BackendRequest, mirror: str, uncertain: bool = False) -> None:
        """Give back the thread that `prepare` took for a run. `uncertain`: the run may yet write to it."""
        ...

    def settle(self, request: BackendRequest, mirror: str, version: int) -> None:
        """Give it back, holding everything up to a version: the run wrote it there itself."""
        ...

    def written(self, key: str, mirror: str, thread_id: str, version: int) -> None:
        """Note that a thread was written anew and holds everything up to a version."""
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
    health: Health = field(default_factory=Health)
    """How the backends are doing: one for all conversations, so that what one meets spares the others."""
    turns: Turns = field(default_factory=Turns)
    """Who waits for which conversation, where questions wait their turn."""
    close: Callable[[], None] = lambda: None
    """Lets go of connections."""
    aclose: Callable[[], Awaitable[None]] | None = None
    """The same in an event loop, those of that loop among them."""

    def mirrored(self, journal: Journal, key: str) -> Effects[None]:
        """Bring a conversation's threads up to the journal, where there is an outbox.

        What was journaled is journaled: an error here is logged, and the threads catch up later.
        """
        if self.outbox is None:
            return
        try:
            yield from self.outbox.mirror(journal, key)
        except ThreadledgerError as error:
            logger.warning("the threads of %r lag behind: %s", key, error)
