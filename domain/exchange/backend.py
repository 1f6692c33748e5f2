"""Define what the domain needs of a backend: the request it gets and the protocol it follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..conversation import Completion, Profile
    from ..conversation.messages import Message
    from ..effects import Effects
    from ..failures import Failure
    from ..memory import Memory
    from ..threads import Doubt, ThreadItem

ToolFunction = Callable[..., Any]


@dataclass(frozen=True)
class BackendRequest:
    """Hold everything that a backend needs to answer one exchange once."""

    key: str
    exchange_id: str
    run_id: str
    model: str
    profile: Profile
    memory: Memory
    timeout_seconds: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Pairs of text for the provider, besides the ids that a backend sends itself."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that a backend sends as they are if it speaks Chat Completions, and that another one lacks."""
    own_tools: Sequence[str] = ()
    """Functions among `tools` that are called here even if the caller answers the others."""
    hands_over: bool = False
    """Whether the run ends with the calls of a model, `ApprovalNeeded`, because the caller answers them."""
    thread_id: str | None = None
    thread_version: int = 0
    """Journal version that the thread contains once the unsent items have been delivered."""
    unsent: Sequence[ThreadItem] = ()
    """Items that the thread does not contain yet, for a backend that sends them as input."""
    found: Sequence[ThreadItem] = ()
    """Items that an earlier run of this exchange left in the thread although its response was lost. They are used
    instead of calling the model again."""
    tools: Mapping[str, ToolFunction] = field(default_factory=dict)
    secret_of: Callable[[str], str | None] = lambda _: None
    """Function that returns the value of a secret that a tool names."""
    journal: Callable[[Sequence[Message]], None] = lambda _: None
    """Function that journals tool calls and results while the run is in progress."""
    doubts: Sequence[Doubt] = ()
    """Unconfirmed writes to the thread, which may still arrive."""
    stream: bool = False
    """Whether there is a listener that receives the text as it arrives."""
    apart: bool = False
    """Whether the request is answered outside the conversation's linked thread, from its memory alone."""


@dataclass(frozen=True)
class BackendOptions:
    """Describe how the app names and sets a backend."""

    name: str
    """Name in the chain and in stored events."""
    endpoint: str | None = None
    """Base URL that is stored with each run; None stores none."""
    is_home: bool = True
    """Whether the endpoint is the one where threads and files are stored; no id of one is sent to another endpoint."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that every request contains in addition."""


RENDERING_VERSION = 2
"""Version of the forms in which memories are sent; raise it where one changes."""


class Backend(Protocol):
    """Answer exchanges with a model."""

    @property
    def name(self) -> str:
        """Return the name: `assistants`, `responses`, `chat`, or one chosen by the app."""
        ...

    @property
    def thread(self) -> str | None:
        """Return the mirror name of the threads in which the backend answers; None if each run sends it the memory."""
        ...

    @property
    def endpoint(self) -> str | None:
        """Return where the backend is reached, without secrets; stored with each run. Optional: None is not stored."""
        return None

    @property
    def dialect(self) -> str | None:
        """Return the form in which the memory is sent, such as `chat`; stored with each run. Optional: None is not stored."""
        return None

    @property
    def takes_unsent(self) -> bool:
        """Return whether unsent items are sent with the request; otherwise they are mirrored to the thread first."""
        ...

    def load(self) -> None:
        """Load the libraries that calls need. It is called before a run is recorded, so that the run's time is the provider's.

        A backend without this method needs nothing.
        """

    def lacks(self, request: BackendRequest) -> Sequence[str]:
        """Return what of the request the backend does not have: `tool:TYPE` for hosted tools, `part:TYPE` for message parts,
        `option:NAME` for settings of the profile and metadata.

        A fallback is called without it. A backend without this method takes everything.
        """
        return ()

    def losses(self, request: BackendRequest) -> Mapping[str, int]:
        """Return how many parts of the memory in the request the backend cannot be shown, by kind: `part:TYPE`.

        They are recorded with the run. A backend without this method shows everything.
        """
        return {}

    def preflight(self, request: BackendRequest) -> Failure | None:
        """Return the failure that the provider would report, without calling it, or None if there is none."""
        ...

    def answer(self, request: BackendRequest) -> Effects[Completion]:
        """Call the model once, never twice, as a generator of effects (`effects.py`) for both drivers.

        Raises:
            ProviderRefused: the call failed; it carries the facts of the failure.
        """
        ...
