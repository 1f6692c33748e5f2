"""Hold what an exchange may call: backends, threads, tools and prices, put together by `adapters/wiring.py`.

`Turns` queues the callers that wait for a conversation in this process: first come, first served.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from ..conversation import Profile
from ..failures import Health
from .policy import Candidate, Policy

if TYPE_CHECKING:
    from ..conversation.events import ExchangeRequested
    from ..conversation.messages import Message
    from ..effects import Effects
    from ..journal import MemoryFile
    from ..threads import ThreadMirror, ThreadOutbox
    from .backend import Backend, ToolFunction
    from .served import ServerTool


class Turns:
    """Issue tickets by conversation.

    Other processes have their own tickets; between processes, the first one to check goes first.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[object]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> object:
        """Return a new ticket at the end of the queue."""
        ticket = object()
        with self._lock:
            self._waiting.setdefault(key, deque()).append(ticket)
        return ticket

    def has_come(self, key: str, ticket: object) -> bool:
        """Return whether all earlier tickets have been given back."""
        with self._lock:
            return self._waiting[key][0] is ticket

    def give_back(self, key: str, ticket: object) -> None:
        """Give a ticket back, because its holder is done or no longer waits."""
        with self._lock:
            waiting = self._waiting[key]
            waiting.remove(ticket)
            if not waiting:
                del self._waiting[key]


@dataclass(frozen=True)
class Services:
    """Hold the backends and mirrors by name, the outbox, the profile and its tools."""

    policy: Policy = field(default_factory=Policy)
    backends: Mapping[str, Backend] = field(default_factory=dict)
    mirrors: Mapping[str, ThreadMirror] = field(default_factory=dict)
    mirrored_to: str = "conversations"
    """The kind of thread that memory is mirrored to (`none` for no thread)."""
    outbox: ThreadOutbox | None = None
    price: Callable[[str, int, int], float | None] | None = None
    """Function that returns US dollars for (model, input tokens, output tokens); None if the price is unknown."""
    price_at: Mapping[str, Callable[[str, int, int], float | None]] = field(default_factory=dict)
    """The same function for each backend whose provider has prices of its own, by backend name."""
    profile: Profile = field(default_factory=Profile)
    routes: Mapping[str, Sequence[Candidate]] = field(default_factory=dict)
    """What answers a served request that names a model, by its name; other names go to the backends of the policy."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Pairs of text that are sent to providers that store them."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a served request that only Chat Completions has; see `BackendRequest.extra`."""
    hands_over: bool = False
    """Whether the caller answers tool calls: a run ends with them."""
    answer_type: type[Any] | None = None
    """Model class that `Answer.parsed` is an object of; None if the profile says what it is."""
    tools: Mapping[str, ToolFunction] = field(default_factory=dict)
    server_tools: Mapping[str, Callable[[ExchangeRequested, Mapping[str, Any]], ServerTool]] = field(
        default_factory=dict
    )
    """Functions that return what runs a tool of a served exchange, by the type of the tool: they get its request and the tool."""
    own_tools: Sequence[str] = ()
    """Functions that stand for tools of the server, and are called here even if the caller answers the other calls."""
    finish: Callable[[Message], Message] | None = None
    """Function that returns an answer as it is journaled; None if the answer is not changed."""
    secret_of: Callable[[str], str | None] = lambda _: None
    """Function that returns the value of a secret that a tool names; None if it has none."""
    load: Callable[[], None] | None = None
    """Function that imports the code that a run needs; called before a question is stored, and before a rerun."""
    remove_file: Callable[[str, str], Effects[None]] | None = None
    """Function that deletes an uploaded file: it gets the endpoint, as the upload was recorded, and the provider's id."""
    memory_file: MemoryFile | None = None
    """Port that writes memories to a file."""
    wait: Callable[[float], None] = time.sleep
    random: Random = field(default_factory=Random)
    health: Health = field(default_factory=Health)
    """Health of the backends, shared by all conversations: a backend that fails in one is skipped in the others."""
    turns: Turns = field(default_factory=Turns)
    """Callers that wait for a conversation, if questions are queued."""
    close: Callable[[], None] = lambda: None
    """Function that closes the connections."""
    be_interruptible: Callable[[], None] = lambda: None
    """Function that makes blocking calls end when another thread interrupts them: see `Interruption`."""
    aclose: Callable[[], Awaitable[None]] | None = None
    """Asynchronous function that closes the connections, including the connections of the current event loop."""

    def cost(self, backend: str, model: str, input_tokens: int, output_tokens: int) -> float | None:
        """Return the cost of tokens on a backend in US dollars; None if no price is known."""
        price = self.price_at.get(backend, self.price)
        return price(model, input_tokens, output_tokens) if price is not None else None
