"""given(facts).when(command).then(facts): a fact is `partial(events.RunStarted, run_id="r1", …)`, without its envelope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.domain.conversation import Conversation, ConversationState, events, evolve, parse_message
from threadledger.domain.errors import ThreadledgerError
from threadledger.domain.memory import Memory, fold_memory

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEY = "customer-42"
STREAM = "conversation:customer-42"

Fact = partial[events.Event]
Log = Callable[..., list[events.Event]]


def _log(*facts: Fact, began: datetime = NOW - timedelta(hours=1), first: int = 1) -> list[events.Event]:
    """Facts as a conversation's events: versions without gaps, a second apart; a fact may bring an envelope of its own."""
    return [
        fact.func(
            **{
                "originator_id": STREAM,
                "originator_version": version,
                "timestamp": began + timedelta(seconds=version - first),
                "event_id": f"event-{version}",
            }
            | fact.keywords
        )
        for version, fact in enumerate(facts, first)
    ]


@dataclass
class Outcome:
    """What a command came to."""

    conversation: Conversation
    emitted: list[events.Event]
    result: Any = None
    error: ThreadledgerError | None = None

    def then(self, *facts: Fact) -> Outcome:
        """Exactly these events were recorded, in this order; only the fields that a fact names are compared."""
        self._not_refused()
        assert [type(event) for event in self.emitted] == [fact.func for fact in facts]
        for event, fact in zip(self.emitted, facts, strict=True):
            assert {name: getattr(event, name) for name in fact.keywords} == fact.keywords
        return self

    def then_nothing(self) -> Outcome:
        self._not_refused()
        assert self.emitted == []
        return self

    def then_refused(self, error: type[Exception], saying: str = "") -> Outcome:
        assert isinstance(self.error, error), f"not refused: {self.emitted}"
        assert saying in str(self.error)
        return self

    def _not_refused(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class Given:
    """A conversation with a past."""

    past: list[events.Event] = field(default_factory=list)

    def when(self, command: Callable[[Conversation], Any]) -> Outcome:
        state = ConversationState()
        for event in self.past:
            evolve(state, event)
        conversation = Conversation(STREAM, state)
        outcome = Outcome(conversation, [])
        try:
            outcome.result = command(conversation)
        except ThreadledgerError as error:
            outcome.error = error
        outcome.emitted = list(conversation.collect_events())
        return outcome


@pytest.fixture
def clock() -> Iterator[Any]:
    """The time stands still at noon."""
    with freeze_time(NOW) as frozen:
        yield frozen


@pytest.fixture
def given(clock: Any) -> Callable[..., Given]:
    """`given(*facts)`: a conversation whose log holds these facts, the first an hour ago, then a second apart."""
    return lambda *facts: Given(_log(*facts))


@pytest.fixture(scope="session")
def log() -> Log:
    """`log(*facts)`: facts as events."""
    return _log


@pytest.fixture(scope="session")
def state_of() -> Callable[..., ConversationState]:
    """`state_of(*facts)`: the aggregate's state after these facts."""

    def fold(*facts: Fact) -> ConversationState:
        state = ConversationState()
        for event in _log(*facts):
            evolve(state, event)
        return state

    return fold


@pytest.fixture(scope="session")
def memory_of() -> Callable[..., Memory]:
    """`memory_of(*chat_messages)`: the memory of a conversation in which these were journaled."""

    def fold(*messages: Mapping[str, Any]) -> Memory:
        conversation = Conversation.start(KEY)
        for number, message in enumerate(messages, 1):
            conversation.journal(parse_message(message), message_id=f"m{number}")
        return fold_memory(conversation.collect_events())

    return fold
