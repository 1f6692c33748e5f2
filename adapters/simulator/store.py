"""Everything the simulated provider remembers. Plain records; the surfaces' modules change them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .answers import Answer, Answers
from .call import Json
from .errors import no_such, not_found, unknown_model
from .ids import Seeded
from .limits import COMPLETIONS_KEPT, POLL_AFTER_DEFAULT_MS
from .outcomes import Outcome
from .validation import identifier
from .watched import Watched


@dataclass
class RunRecord:
    """A run, its steps, and how a fault wants it to end.

    `answer` is what the model says, from the moment it begins to speak; `message_id` and `step_id` are where it says
    it. While `streaming`, the run goes on by being read there and not by being looked at.
    """

    object: Json
    outcome: Outcome | None = None
    steps: dict[str, Json] = field(default_factory=dict)
    answer: Answer | None = None
    message_id: str | None = None
    step_id: str | None = None
    streaming: bool = False


@dataclass
class ThreadRecord:
    """A thread with its messages and runs, each by id in order of creation."""

    object: Json
    messages: Watched[Json] = field(default_factory=Watched[Json])
    runs: Watched[RunRecord] = field(default_factory=Watched[RunRecord])


@dataclass
class ConversationRecord:
    """A conversation with its items by id, in order of creation. `busy` is the response that is being made in it."""

    object: Json
    items: Watched[Json] = field(default_factory=Watched[Json])
    busy: str | None = None


@dataclass
class ResponseRecord:
    """A response as it stands, the input items it was given, and what it will be when it is over (None: it is)."""

    object: Json
    input: list[Json] = field(default_factory=list)
    final: Json | None = None
    streamed: bool = False


@dataclass
class CompletionRecord:
    """A chat completion, the messages it was given, and whether the app asked for it to be kept."""

    object: Json
    messages: list[Json] = field(default_factory=list)
    kept: bool = False


@dataclass
class Store:
    """The provider's state. `models`: known models with their shutdown date (None: any model is accepted)."""

    seeded: Seeded
    answers: Answers
    models: Mapping[str, str | None] | None = None
    retired_models: set[str] = field(default_factory=set)
    poll_after_ms: int = POLL_AFTER_DEFAULT_MS
    clock: Callable[[], float] = time.time
    assistants: Watched[Json] = field(default_factory=Watched[Json])
    threads: Watched[ThreadRecord] = field(default_factory=Watched[ThreadRecord])
    conversations: Watched[ConversationRecord] = field(default_factory=Watched[ConversationRecord])
    responses: Watched[ResponseRecord] = field(default_factory=Watched[ResponseRecord])
    completions: Watched[CompletionRecord] = field(default_factory=Watched[CompletionRecord])

    def seconds(self) -> float:
        """Unix time. The clock is asked anew each time, for a test may put another one in."""
        return self.clock()

    def now(self) -> int:
        """Unix time in whole seconds, as every timestamp of the provider."""
        return int(self.clock())

    def clear(self) -> None:
        """Forget every object and every answer; ids go on where they were, so that none is given twice."""
        kinds: tuple[Watched[Any], ...] = (
            self.assistants,
            self.threads,
            self.conversations,
            self.responses,
            self.completions,
        )
        for kind in kinds:
            for key in list(kind):
                del kind[key]
        self.answers.replace(())
        self.retired_models.clear()

    def remember(self, record: CompletionRecord) -> None:
        """Put a chat completion to the latest ones; the oldest is forgotten where there are too many."""
        self.completions[record.object["id"]] = record
        if len(self.completions) > COMPLETIONS_KEPT:
            del self.completions[next(iter(self.completions))]

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
