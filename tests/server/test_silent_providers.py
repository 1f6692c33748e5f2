"""A provider that says nothing, or half of something, keeps no run from ending, whatever the state of its connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import OpenAI

from threadledger.adapters.wakeable_http import WakeableStream
from threadledger.domain.conversation import events as e

from .assistant_app import App
from .speaking import SECONDS_MAX, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

TO_ITS_END = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{"
"""Beginning of an answer that ends where its connection does."""


class Silent:
    """A provider that accepts a connection, and sends no more than these bytes."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.asked, self.left = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:
                return
            with line, suppress(ConnectionError):  # one that is broken off may be reset
                line.recv(100_000)
                line.sendall(self._sent)
                self.asked.set()
                while line.recv(100_000):
                    pass
            self.left.set()

    def close(self) -> None:
        """Accept no more connections."""
        self._listening.close()


@dataclass
class Waiting:
    """What the server waits for: a provider at an address, and how often it has begun to read from it."""

    provider: Silent
    base_url: str
    reads_needed: int
    reads: list[int] = field(default_factory=list)

    def wait(self) -> None:
        """Block until the server waits for the part that never comes."""
        assert self.provider.asked.wait(SECONDS_MAX)
        until(lambda: len(self.reads) >= self.reads_needed)


@pytest.fixture(
    params=[("https", b"", 0), ("http", b"", 1), ("http", TO_ITS_END, 2)], ids=["handshake", "headers", "body"]
)
def silent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    scheme, sent, reads = request.param
    read = WakeableStream.read
    with closing(Silent(sent)) as provider:
        waiting = Waiting(provider, f"{scheme}://127.0.0.1:{provider.port}/v1", reads)

        def counted(own: WakeableStream, *given: Any, **options: Any) -> bytes:
            waiting.reads.append(1)
            return read(own, *given, **options)

        monkeypatch.setattr(WakeableStream, "read", counted)
        yield waiting


def test_a_cancelled_run_leaves_it_at_once(open_api: Callable[..., Any], silent: Waiting) -> None:
    server = open_api(openai_base_url=silent.base_url, retries=2)
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        app = App(client)
        run = app.runs.create(app.thread.id, assistant_id=app.assistant.id)
        silent.wait()
        assert app.runs.cancel(run.id, thread_id=app.thread.id).status == "cancelled"
        assert silent.provider.left.wait(SECONDS_MAX)
        until(lambda: not server.served.runner._running)


def test_a_server_that_stops_leaves_it_and_its_run_to_another_process(
    open_api: Callable[..., Any], silent: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.server.runner.STOP_SECONDS", 0.0)
    server = open_api(openai_base_url=silent.base_url, retries=0)
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        app = App(client)
        app.runs.create(app.thread.id, assistant_id=app.assistant.id)
    silent.wait()
    server.served.runner.stop()
    assert silent.provider.left.wait(SECONDS_MAX)
    journal = server.served.ledger.journal
    [failed] = (each for each in journal.history(app.thread.id) if isinstance(each, e.RunFailed))
    assert failed.status == "interrupted"
    assert len(journal.require(app.thread.id).state.open_exchanges) == 1
