"""Everything the simulated provider remembers. Plain records; the surfaces' modules change them."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .answers import Answers
from .call import Json
from .errors import no_such, not_found, unknown_model
from .ids import Seeded
from .limits import POLL_AFTER_DEFAULT_MS
from .outcomes import Outcome
from .validation import identifier


@dataclass
class RunRecord:
    """A run, its steps, how a fault wants it to end, and whether its tool calls were answered."""

    object: Json
    outcome: Outcome | None = None
    steps: dict[str, Json] = field(default_factory=dict)


@dataclass
class ThreadRecord:
    """A thread with its messages and runs, each by id in order of creation."""

    object: Json
    messages: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, RunRecord] = field(default_factory=dict)


@dataclass
class ConversationRecord:
    """A conversation with its items by id, in order of creation."""

    object: Json
    items: dict[str, Json] = field(default_factory=dict)


@dataclass
class ResponseRecord:
    """A stored response and the input items it was given."""

    object: Json
    input: list[Json] = field(default_factory=list)


@dataclass
class Store:
    """The provider's state. `models`: known models with their shutdown date (None: any model is accepted)."""

    seeded: Seeded
    answers: Answers
    models: Mapping[str, str | None] | None = None
    retired_models: set[str] = field(default_factory=set)
    poll_after_ms: int = POLL_AFTER_DEFAULT_MS
    clock: Callable[[], float] = time.time
    assistants: dict[str, Json] = field(default_factory=dict)
    threads: dict[str, ThreadRecord] = field(default_factory=dict)
    conversations: dict[str, ConversationRecord] = field(default_factory=dict)
    responses: dict[str, ResponseRecord] = field(default_factory=dict)
    completions: deque[Json] = field(default_factory=lambda: deque(maxlen=1_000))

    def now(self) -> int:
        """Unix time in whole seconds, as every timestamp of the provider."""
        return int(self.clock())

    def accept_model(self, model: str) -> str:
        """`model`, or the provider's 404 where it is retired or unknown."""
        if model in self.retired_models or (self.models is not None and model not in self.models):
            raise unknown_model(model)
        return model

    def assistant(self, assistant_id: str) -> Json:
        """An assistant by id, or the provider's 404."""
        found = self.assistants.get(identifier(assistant_id, "assistant_id", "asst_"))
        if found is None:
            raise no_such("assistant", assistant_id)
        return found

    def thread(self, thread_id: str) -> ThreadRecord:
        """A thread by id, or the provider's 404."""
        found = self.threads.get(identifier(thread_id, "thread_id", "thread_"))
        if found is None:
            raise no_such("thread", thread_id)
        return found

    def conversation(self, conversation_id: str) -> ConversationRecord:
        """A conversation by id, or the provider's 404."""
        found = self.conversations.get(identifier(conversation_id, "conversation_id", "conv_"))
        if found is None:
            raise not_found("Conversation", conversation_id)
        return found
