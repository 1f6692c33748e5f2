"""Represent a message with its place in the ledger, either newly journaled or read from the store."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from .ids import from_iso, to_iso
from .messages import Message, Role, Source
from .parsing import message_in

_SPEAKERS = frozenset(role.value for role in Role if role not in {Role.TOOL, Role.UNKNOWN})


class JournaledMessage:
    """Represent a message with its place in the ledger.

    A stored message is parsed on first access, because most views only pass texts on.
    """

    __slots__ = ("_at", "_message", "_payload", "version")

    version: int

    def __init__(
        self,
        message: Message,
        message_id: str,
        version: int,
        at: datetime,
        exchange_id: str | None = None,
        run_id: str | None = None,
        source: Source = Source.APP,
    ) -> None:
        self._message: Message | None = message
        self._at: datetime | str = at
        self._payload: dict[str, Any] = {
            "message_id": message_id,
            "role": message.role.value,
            "exchange_id": exchange_id,
            "run_id": run_id,
            "source": source.value,
        }
        self.version = version

    @classmethod
    def stored(cls, payload: dict[str, Any], version: int, at: datetime | str) -> Self:
        """Create the message of a stored `MessageJournaled`; `at` may be an ISO 8601 string."""
        self = cls.__new__(cls)
        self._message, self._payload, self._at, self.version = None, payload, at, version
        return self

    @property
    def message(self) -> Message:
        """Return the role and content."""
        if self._message is None:
            self._message = message_in(self._payload)
        return self._message

    @property
    def message_id(self) -> str:
        """Return the message's id; two messages with equal texts have different ids."""
        return str(self._payload["message_id"])

    @property
    def is_tool_result(self) -> bool:
        """Return whether the message is the result of a tool call."""
        return bool(self._payload["role"] == Role.TOOL.value)

    @property
    def at(self) -> datetime:
        """Return when the message was journaled."""
        if isinstance(self._at, str):
            self._at = from_iso(self._at)
        return self._at

    @property
    def written_at(self) -> str:
        """Return when the message was written (ISO 8601): when journaled, or earlier if an import knows the time."""
        written: str | None = self._payload.get("written_at")
        return written or (self._at if isinstance(self._at, str) else to_iso(self._at))

    @property
    def exchange_id(self) -> str | None:
        """Return the id of its exchange."""
        found: str | None = self._payload.get("exchange_id")
        return found

    @property
    def run_id(self) -> str | None:
        """Return the id of the run that produced it."""
        found: str | None = self._payload.get("run_id")
        return found

    @property
    def source(self) -> Source:
        """Return the origin of the message."""
        return Source(self._payload.get("source", Source.APP.value))

    def as_plain_chat_message(self) -> dict[str, Any] | None:
        """Return the Chat Completions format of a message that consists of a role and text; None for all others.

        Only stored messages that have not been parsed yet qualify.
        """
        payload = self._payload
        role, content = payload["role"], payload.get("content")
        if self._message is not None or type(content) is not str or role not in _SPEAKERS:
            return None
        return None if "tool_calls" in payload or "extra" in payload else {"role": role, "content": content}

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that CONTRACT.md defines."""
        return {
            "message_id": self.message_id,
            "version": self.version,
            "at": to_iso(self.at),
            "role": self.message.role.value,
            "content": self.message.content_as_json(),
            "tool_calls": [call.as_json() for call in self.message.tool_calls],
            "tool_call_id": self.message.tool_call_id,
            "exchange_id": self.exchange_id,
            "run_id": self.run_id,
            "source": self.source.value,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JournaledMessage) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((self.message_id, self.version))

    def __repr__(self) -> str:
        return f"JournaledMessage({self.message!r}, {self.message_id!r}, version={self.version})"

    def _compared(self) -> tuple[Any, ...]:
        return (self.message, self.message_id, self.version, self.at, self.exchange_id, self.run_id, self.source)
