"""Maintain the view of conversations: the state of each, and the position of its last change.

The streams contain the same state for decisions. This second copy allows listing and sorting without extra work in appends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Index, MetaData, Select, Table, Text, select

from threadledger.domain.conversation import STATE_SCHEMA, ConversationState, events, evolve, key_of

from .catching_up import PLAIN_TEXT, POSITION, Taken, View, upsert

Known = dict[str, tuple[str, str | None]]
"""Stored state (JSON), and when the newest message was written if it was imported, by stream name."""

Changes = Sequence[dict[str, Any]]


class ConversationsView(View[Known, Changes]):
    """Store the state of every conversation."""

    name = "conversations"
    version = 200 + STATE_SCHEMA  # 100 times our own number: a new state schema also rebuilds the view
    topics = ()

    def create(self, connection: Connection, generation: int) -> None:
        self._conversations(generation).metadata.create_all(connection, checkfirst=False)

    def load(self, connection: Connection, generation: int, taken: Sequence[Taken]) -> Known:
        conversations = self._conversations(generation)
        touched = {event.originator_id for _, event in taken}
        query = select(conversations).where(conversations.c.stream.in_(touched))
        return {row.stream: (row.state, row.written_at) for row in connection.execute(query)}

    def fold(self, taken: Sequence[Taken], known: Known | None) -> Changes:
        states = {stream: ConversationState.from_json(state) for stream, (state, _) in (known or {}).items()}
        written = {stream: written_at for stream, (_, written_at) in (known or {}).items()}
        last: dict[str, int] = {}
        for position, event in taken:
            stream = event.originator_id
            if stream not in states:
                states[stream] = ConversationState()
            evolve(states[stream], event)
            last[stream] = position
            if isinstance(event, events.MessageJournaled):
                written[stream] = event.written_at
        return [
            {"stream": name, "position": at, "state": states[name].as_json(), "written_at": written.get(name)}
            for name, at in last.items()
        ]

    def apply(self, connection: Connection, generation: int, changes: Changes) -> None:
        upsert(connection, self._conversations(generation), changes)

    def conversations(
        self, connection: Connection, generation: int, limit: int | None, among: Select[Any] | None = None
    ) -> list[ConversationState]:
        """Return conversations, last changed first; `among` restricts them to the selected streams."""
        conversations = self._conversations(generation)
        query = select(conversations).order_by(conversations.c.position.desc())
        if among is not None:
            query = query.where(conversations.c.stream.in_(among))
        if limit is not None:
            query = query.limit(max(limit, 0))
        return [_state(row.stream, row.state, row.written_at) for row in connection.execute(query)]

    def read_all(self, connection: Connection, generation: int) -> None:
        """Read every row, to find those that cannot be read."""
        self.conversations(connection, generation, None)

    def _conversations(self, generation: int) -> Table:
        return _conversations_table(self.prefix(generation))


@cache
def _conversations_table(begin: str) -> Table:
    conversations = Table(
        f"{begin}states",
        MetaData(),
        Column("stream", PLAIN_TEXT, primary_key=True),
        Column("position", POSITION, nullable=False),
        Column("state", Text, nullable=False),
        Column("written_at", Text),
    )
    Index(f"{begin}by_position", conversations.c.position)
    return conversations


def _state(stream: str, stored: str, written_at: str | None) -> ConversationState:
    state = ConversationState.from_json(stored)
    state.written_at = written_at
    state.key = state.key or key_of(stream)  # its first event may be one that could not be processed
    return state
