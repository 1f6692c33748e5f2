"""Run the server, in this thread until a signal or in a thread of its own, and build it for a ledger."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from threadledger.domain.errors import InvalidSettings
from threadledger.domain.ledger import Ledger

from ..listener import Listener, ListenerThread, StoppableApp, bound_socket, url_of
from ..settings import BACKENDS, Settings
from ..wire.addresses import API_PREFIX
from .access import Access, KeyLookup, NoKeys
from .app import Hooks, ServerApp
from .calls import Handler, Served
from .connection import ClientConnection
from .handlers import HANDLERS
from .limits import KEEP_ALIVE_SECONDS, START_TIMEOUT_SECONDS, SWITCH_SECONDS, ServerLimits
from .request_keys import RequestKeys
from .runner import Runner

WHAT = "the server"
PORT_DEFAULT = 8731


PATH = re.compile(r"/?|(/(?!\.\.?(/|$))(%[0-9A-Fa-f]{2}|[A-Za-z0-9._~!$&'()*+,;=:@-])+)+/?")
"""A path of a URL, as its bytes are sent, without empty segments, `.` and `..`, which clients resolve."""


def require_path(root_path: str) -> None:
    """Raise `InvalidSettings` if a root path is not the beginning of a path."""
    if PATH.fullmatch(root_path) is None:
        raise InvalidSettings(
            f"the root path {root_path!a:.80} is not the beginning of a URL's path: give one like /ledger, in characters that "
            "paths have (--root-path)"
        )


class Background(Protocol):
    """Define what runs next to the requests: it is started before the first one and stopped after the last one."""

    def start(self) -> None:
        """Start it; this does not block."""
        ...

    def stop(self) -> None:
        """End it, and hand over to other processes what is not finished."""
        ...


class Server:
    """Serve the handlers at an address.

    Port 0 picks a free one. `root_path` is a prefix of all paths, as a proxy forwards them. `allowed_hosts` are names by
    which a server without keys may be addressed. `hand_over` is called when the server has stopped in order: requests in
    progress have ended, or their time is over.
    """

    def __init__(
        self,
        served: Served,
        handlers: Mapping[str, Handler],
        host: str = "127.0.0.1",
        port: int = PORT_DEFAULT,
        root_path: str = "",
        *,
        keys: KeyLookup | None = None,
        allowed_hosts: Collection[str] = (),
        limits: ServerLimits | None = None,
        hooks: Hooks | None = None,
        background: Sequence[Background] = (),
        hand_over: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a server.

        Raises:
            InvalidSettings: the root path is not the beginning of a path.
        """
        require_path(root_path)
        self.host, self.port = host, port
        self.served = served
        self._handlers = handlers
        self._root_path = root_path
        self._keys = keys or NoKeys()
        self._allowed_hosts = allowed_hosts
        self._limits = limits or ServerLimits()
        self._hooks = hooks
        self._background = background
        self._hand_over = hand_over
        self._thread: ListenerThread | None = None
        self._listener: ServerListener | None = None

    @property
    def base_url(self) -> str:
        """Return the base URL for clients: `http://127.0.0.1:8731/v1`."""
        return f"{url_of(self.host, self.port)}{self._root_path.rstrip('/')}{API_PREFIX}"

    def start(self) -> Self:
        """Start in a thread of its own and return the server, which then accepts connections.

        Raises:
            InvalidSettings: other machines would reach it without a key.
            OSError: the address cannot be bound.
        """
        listening = self._open()
        listener = self._listener = self._made_listener()
        self._thread = ListenerThread(listener, listening, WHAT, START_TIMEOUT_SECONDS)
        return self

    def stop(self) -> None:
        """Close the server: it accepts no more requests, waits for those in progress, and hands over."""
        if self._listener is not None:
            self._listener.ask_to_stop()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop(self._limits.stop_grace_seconds)
            self._close()

    def serve_forever(self, announce: Callable[[], None] = lambda: None) -> bool:
        """Serve in this thread until SIGTERM, Ctrl-C or `stop`, and return whether it ended in order.

        It did not if a second signal arrived, which ends it at once. `announce` is called when connections are accepted.

        Raises:
            InvalidSettings, OSError: as `start`.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        listening = self._open()
        listener = self._listener = self._made_listener(announce)
        with _interrupted_by_sigterm():  # while runs end, when the event loop has ended
            try:
                asyncio.run(listener.serve([listening]))
            finally:
                if not listener.is_forced:
                    self._close()
        return not listener.is_forced

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _open(self) -> socket.socket:
        Access(self._keys, self.host, self.port).require_safe_start(self.host)
        listening = bound_socket(self.host, self.port, WHAT)
        self.port = int(listening.getsockname()[1])
        started: list[Background] = []
        try:
            for each in self._background:
                each.start()
                started.append(each)
        except BaseException:
            listening.close()
            for each in reversed(started):
                each.stop()
            raise
        return listening

    def _made_listener(self, announce: Callable[[], None] = lambda: None) -> ServerListener:
        access = Access(self._keys, self.host, self.port, self._allowed_hosts)
        app = ServerApp(
            self.served, self._handlers, access, root_path=self._root_path, limits=self._limits, hooks=self._hooks
        )
        return ServerListener(app, announce)

    def _close(self) -> None:
        self._hand_over()
        for each in reversed(self._background):
            each.stop()


class LimitedApp(StoppableApp, Protocol):
    """Define an application with limits of its own."""

    @property
    def limits(self) -> ServerLimits:
        """Return its limits."""
        ...


class ServerListener(Listener):
    """Wait for requests in progress before the server stops; a second signal ends it at once."""

    def __init__(self, app: LimitedApp, announce: Callable[[], None]) -> None:
        limits = app.limits
        options: dict[str, Any] = {"http": ClientConnection, "timeout_keep_alive": KEEP_ALIVE_SECONDS}
        super().__init__(app, announce, h11_max_incomplete_event_size=limits.header_bytes, **options)
        self.is_forced = False
        self._is_signalled = False
        self._grace_seconds = limits.stop_grace_seconds
        self._force = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.is_forced, self._is_signalled = self._is_signalled, True
        self.call_in_loop(self._force.set if self.is_forced else self._stop.set)

    async def finish(self) -> None:
        if not self.server_state.tasks:
            return
        finished = asyncio.ensure_future(asyncio.wait([*self.server_state.tasks]))
        forced = asyncio.ensure_future(self._force.wait())
        await asyncio.wait([finished, forced], timeout=self._grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        for each in (finished, forced):
            each.cancel()
            with suppress(asyncio.CancelledError):  # it was cancelled in the line before
                await each


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this thread as Ctrl-C does, unless the event loop handles both; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def open_server(ledger: Ledger, settings: Settings, keys: KeyLookup | None = None, **options: Any) -> Server:
    """Return the server of a ledger, which is not started; `options` are those of `Server`.

    Raises:
        InvalidSettings: a route of `[serve.models]` leads to a backend that does not exist.
    """
    serve = settings.serve
    serve.require_backends(tuple(dict.fromkeys((*BACKENDS, *settings.named))))
    ledger.journal.blobs.writes_evenly = True
    runner = Runner(ledger, options.get("limits"))
    requests = RequestKeys(runner)
    hooks = Hooks(requests.begin, requests.sent, requests.unsent)
    return Server(
        Served(ledger, serve, runner),
        HANDLERS,
        keys=keys or ledger.api_keys,
        hooks=hooks,
        background=[runner],
        **options,
    )
