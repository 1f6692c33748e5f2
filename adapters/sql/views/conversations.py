"""Maintain the view of conversations: the state of each, and the position of its last change.

The streams contain the same state for decisions. This second copy allows listing and sorting without extra work in appends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Index, MetaData, Select, Table, Text, select

from threadledger.domain.conversation import STATE_SCHEMA, ConversationState, evolve, key_of

from .catching_up import PLAIN_TEXT, POSITION, Taken, View, upsert

Known = dict[str, str]
"""Stored state (JSON) by stream name."""

Changes = Sequence[dict[str, Any]]


class ConversationsView(View[Known, Changes]):
    """Store the state of every conversation."""

    name = "conversations"
    version = 100 + STATE_SCHEMA  # 100 times our own number: a new state schema also rebuilds the view
    topics = ()

    def create(self, connection: Connection, generation: int) -> None:
        self._conversations(generation).metadata.create_all(connection, checkfirst=False)

    def load(self, connection: Connection, generation: int, taken: Sequence[Taken]) -> Known:
        conversations = self._conversations(generation)
        touched = {event.originator_id for _, event in taken}
        query = select(conversations.c.stream, conversations.c.state).where(conversations.c.stream.in_(touched))
        return {row.stream: row.state for row in connection.execute(query)}

    def fold(self, taken: Sequence[Taken], known: Known | None) -> Changes:
        states = {stream: ConversationState.from_json(state) for stream, state in (known or {}).items()}
        last: dict[str, int] = {}
        for position, event in taken:
            stream = event.originator_id
            if stream not in states:
                states[stream] = ConversationState()
            evolve(states[stream], event)
            last[stream] = position
        return [{"stream": stream, "position": at, "state": states[stream].as_json()} for stream, at in last.items()]

    def apply(self, connection: Connection, generation: int, changes: Changes) -> None:
        upsert(connection, self._conversations(generation), changes)

    def conversations(
        self, connection: Connection, generation: int, limit: int | None, among: Select[Any] | None = None
    ) -> list[ConversationState]:
        """Return conversations, last changed first; `among` restricts them to the selected streams."""
        conversations = self._conversations(generation)
        query = select(conversations.c.stream, conversations.c.state).order_by(conversations.c.position.desc())
        if among is not None:
            query = query.where(conversations.c.stream.in_(among))
        if limit is not None:
            query = query.limit(max(limit, 0))
        return [_state(stream, state) for stream, state in connection.execute(query)]

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
    )
    Index(f"{begin}by_position", conversations.c.position)
    return conversations


def _state(stream: str, stored: str) -> ConversationState:
    state = ConversationState.from_json(stored)
    state.key = state.key or key_of(stream)  # its first event may be one that could not be processed
    return state
