"""Provide one conversation to an asynchronous app, with the names and the meaning of `Chat`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from . import events as e
from .chat import OWN_RUN_TIMEOUT_SECONDS, Chat
from .conversing import Conversing
from .driving import AsyncDriver
from .exchange import Policy
from .failures import RecordedFailure
from .journal import Journal
from .journaled import JournaledMessage
from .memory import Memory
from .outside import Outside
from .own_runs import AsyncOwnRun, OwnRunning
from .stream import Answer, StreamPart


class AsyncChat:
    """Represent a conversation by its key; it starts with its first message. `Chat` documents the methods."""

    def __init__(self, journal: Journal, outside: Outside, key: str, driver: AsyncDriver) -> None:
        self._conversing = Conversing(journal, outside, key)
        self._chat = Chat(journal, outside, key)
        self._driver = driver
        self.key = key

    async def append(
        self,
        role: str,
        content: str | Sequence[Mapping[str, Any]] | None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> JournaledMessage:
        """See `Chat.append`."""
        return await self._driver.perform(self._conversing.append(role, content, idempotency_key, fields))

    async def extend(self, messages: Iterable[Mapping[str, Any]]) -> list[JournaledMessage]:
        """See `Chat.extend`."""
        return await self._driver.perform(self._conversing.extend(messages))

    async def ask(self, text: str, *, idempotency_key: str | None = None) -> Answer:
        """See `Chat.ask`. If it is cancelled, the run ends as interrupted."""
        return await self._driver.perform(self._conversing.ask(text, idempotency_key))

    def stream(self, text: str, *, idempotency_key: str | None = None) -> AsyncGenerator[StreamPart, None]:
        """See `Chat.stream`: `async for part in chat.stream(text)`."""
        return self._driver.heard(self._conversing.ask(text, idempotency_key, stream=True))

    async def rerun(self, exchange_id: str, policy: Policy | None = None, *, live: bool = False) -> Answer:
        """See `Chat.rerun`."""
        return await self._driver.perform(self._conversing.rerun(exchange_id, policy, live=live))

    @asynccontextmanager
    async def run(
        self, backend: str, model: str, timeout_seconds: float = OWN_RUN_TIMEOUT_SECONDS
    ) -> AsyncIterator[AsyncOwnRun]:
        """See `Chat.run`: `async with chat.run(…) as run`."""
        running = OwnRunning(self._conversing, backend, model, timeout_seconds)
        await self._driver.perform(running.start())
        try:
            yield AsyncOwnRun(running, self._driver)
        except BaseException as error:
            await self._driver.perform(running.fail(error))
            raise
        await self._driver.perform(running.end())

    async def memory(
        self, *, last: int | None = None, tokens: int | None = None, at: int | datetime | None = None
    ) -> Memory:
        """See `Chat.memory`."""
        return await self._driver.work(lambda: self._chat.memory(last=last, tokens=tokens, at=at))

    async def events(self, after: int = 0) -> list[e.Event]:
        """See `Chat.events`."""
        return await self._driver.work(lambda: self._chat.events(after))

    async def failures(self) -> list[RecordedFailure]:
        """See `Chat.failures`."""
        return await self._driver.work(self._chat.failures)

    async def retract(self, message_id: str, reason: str = "") -> None:
        """See `Chat.retract`."""
        await self._driver.work(lambda: self._chat.retract(message_id, reason))

    async def clear(self, reason: str = "") -> None:
        """See `Chat.clear`."""
        await self._driver.work(lambda: self._chat.clear(reason))
