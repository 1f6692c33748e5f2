"""Provide a server of a real ledger with handlers of the tests, and what speaks to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from threadledger.adapters import load_settings
from threadledger.adapters.server import Served, Server, ServeSettings, open_server
from threadledger.adapters.server.limits import ServerLimits
from threadledger.adapters.server.runner import Runner
from threadledger.domain.ledger import Ledger

from .assistant_app import App
from .chat_only import ChatOnly
from .processes import ServerParent, ServerProcess, reserved_port
from .speaking import Keys, until


@pytest.fixture
def bare_ledger(open_ledger: Callable[..., Any]) -> Any:
    """Return a ledger on SQLite and the simulator, which no server has."""
    return open_ledger()


@pytest.fixture
def serve(bare_ledger: Any) -> Iterator[Callable[..., Server]]:
    """Yield a function that starts a server on a free port: `serve({"create_thread": handler}, keys=Keys(...))`."""
    started: list[Server] = []

    def start(handlers: Any = None, *, settings: ServeSettings | None = None, **options: Any) -> Server:
        from threadledger.adapters.server.handlers import HANDLERS

        served = Served(bare_ledger, settings or ServeSettings(), Runner(bare_ledger))
        chosen = HANDLERS if handlers is None else handlers
        started.append(Server(served, chosen, port=0, **options).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def serving(open_ledger: Callable[..., Any]) -> Iterator[Callable[..., Server]]:
    """Yield a function that starts the whole server on a ledger whose upstream is the simulator's Chat Completions."""
    started: list[Server] = []

    def start(keys: Any = None, serve: ServeSettings | None = None, **settings: Any) -> Server:
        own = {"backends": ("chat",), "threads": "none", "retries": 0} | settings
        ledger = open_ledger(**own)
        server = open_server(ledger, load_settings(db=ledger.status()["url"]), keys, port=0)
        if serve is not None:
            server.served.settings = serve
        started.append(server.start())
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(serving: Callable[..., Server]) -> Server:
    """Return a running server."""
    return serving()


@pytest.fixture
def ledger(server: Server) -> Ledger:
    """Return the ledger of the running server."""
    return server.served.ledger


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    """Return the provider's SDK, pointed at the server; it repeats nothing by itself."""
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def app(client: OpenAI) -> App:
    """Return an app with an assistant and a thread on the server."""
    return App(client)


@pytest.fixture
def upstream() -> Iterator[ChatOnly]:
    """Run a provider that serves Chat Completions and nothing else."""
    with ChatOnly() as running:
        yield running


@pytest.fixture
def open_api(upstream: ChatOnly, db_url: str) -> Iterator[Callable[..., Server]]:
    """Yield a function that serves a ledger whose only provider is `upstream`: `open_api("[serve]\\nhosted_tools = 'drop'")`."""
    from threadledger.adapters import open_ledger

    opened: list[Any] = []

    def start(config: str = "", limits: ServerLimits | None = None, **settings: Any) -> Server:
        Path("threadledger.toml").write_text(config, encoding="utf-8")
        given = {"db": db_url, "openai_api_key": "sk-test", "openai_base_url": upstream.base_url, "threads": "none"}
        loaded = load_settings(**given | {"backends": ("chat",)} | settings)
        ledger = open_ledger(loaded, wait=lambda seconds: None)
        server = open_server(ledger, loaded, port=0, limits=limits).start()
        opened.extend([ledger.close, server.stop])
        return server

    yield start
    for close in reversed(opened):
        close()


@pytest.fixture
def keys() -> Keys:
    """Return keys of two tenants, one of which may only read."""
    return Keys()


class Lines(logging.Handler):
    """Keep the records of every logger, as their formatted lines."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        """Return everything that a handler can see."""
        return "\n".join(f"{logging.Formatter().format(each)} {vars(each)}" for each in self.records)

    def statuses(self, count: int) -> list[int]:
        """Return the statuses of the requests' lines, once there are `count`: a line is written after the answer."""
        until(lambda: len(self.of(" bytes")) >= count)
        return [vars(each)["status"] for each in self.of(" bytes")]

    def of(self, part: str) -> list[logging.LogRecord]:
        """Return the records whose message has a part."""
        return [each for each in self.records if part in each.getMessage()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Yield what is logged, from the level DEBUG."""
    handler, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


# Servers that are killed

RETRIES = 400
"""Number of attempts of the SDK, which never waits longer than a tenth of a second for the next one."""


@pytest.fixture(scope="module")
def parent() -> Iterator[ServerParent]:
    starting = ServerParent()
    yield starting
    starting.close()


@pytest.fixture
def start(parent: ServerParent, upstream: ChatOnly) -> Iterator[Callable[..., ServerProcess]]:
    """Yield a function that starts a server on the upstream of the test: `start(db_url, port, killed_at=7)`."""
    yield lambda db_url, *arguments, **order: parent.start(db_url, upstream.base_url, *arguments, **order)
    parent.end_servers()


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as number:
        yield number


@pytest.fixture
def another_port() -> Iterator[int]:
    with reserved_port() as number:
        yield number


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], OpenAI]]:
    """Yield a function that returns the SDK for a server, which repeats requests until the server is there again."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.1)
    opened: list[OpenAI] = []

    def connected(base_url: str) -> OpenAI:
        opened.append(OpenAI(base_url=base_url, api_key="any", max_retries=RETRIES))
        return opened[-1]

    yield connected
    for client in opened:
        client.close()
