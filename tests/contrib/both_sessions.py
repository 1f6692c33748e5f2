"""A session of the Agents SDK that is ours and the SDK's own at once, to compare what both return at every call."""

from __future__ import annotations

from typing import Any

from agents import SQLiteSession
from agents.memory.session import SessionABC

from threadledger.contrib.agents import Session

Items = list[Any]


class BothSessions(SessionABC):
    """Pass every call to our session and to a `SQLiteSession` in memory; refuse an answer in which they differ."""

    def __init__(self, ours: Session) -> None:
        self.session_id = ours.session_id
        self.session_settings = None
        self.ours = ours
        self.theirs = SQLiteSession(ours.session_id)

    async def get_items(self, limit: int | None = None) -> Items:
        return self._same(await self.ours.get_items(limit), await self.theirs.get_items(limit))

    async def add_items(self, items: Items) -> None:
        await self.ours.add_items(items)
        await self.theirs.add_items(items)

    async def pop_item(self) -> Any:
        return self._same(await self.ours.pop_item(), await self.theirs.pop_item())

    async def clear_session(self) -> None:
        await self.ours.clear_session()
        await self.theirs.clear_session()

    def close(self) -> None:
        self.theirs.close()

    @staticmethod
    def _same(ours: Any, theirs: Any) -> Any:
        assert ours == theirs
        return ours
