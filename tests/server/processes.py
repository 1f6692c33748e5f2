"""Processes of `threadledger serve` that tests kill (SIGKILL), stop and start again. Started by the tests:

    python processes.py

It reads orders, one JSON object per line, and forks for each. The child runs the command with the arguments of its order in
its folder. What it prints goes to a named pipe, with its exit status at last; the end of the pipe is the end of the process.
Shared modules are imported once, so a server costs a fork instead of a process start.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any
from urllib.request import urlopen

STOPS = "stops"
"""Line that a server prints when it accepts no more requests and lets its runs end."""

NEVER = 0
"""Number of no moment."""

ENDED_SECONDS_MAX = 120.0
"""Maximum time for a process to end, in seconds; it has reached the moment at which it kills itself long before."""

LOOK_SECONDS = 0.05
"""Interval at which the servers search for exchanges that no living process runs, in seconds."""

POINTS = (
    ("threadledger.adapters.sql.group_commit", "Group", "_commit"),
    ("threadledger.adapters.sql.connections", "Connections", "_exclusively"),
    ("threadledger.adapters.server.replies", "RequestInProgress", "begin"),
    ("threadledger.adapters.server.replies", "RequestInProgress", "write"),
    ("threadledger.domain.effects.interruption", "Interruption", "_performed"),
)
"""Functions of the server before and after which a moment is counted: what commits, what answers, what calls a provider."""


class ServerProcess:
    """Represent one process of `threadledger serve`."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self.pid = int(self._line())
        self.base_url = self._line()

    @property
    def host(self) -> str:
        """Return the address that the server listens on."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """Return the port that the server listens on."""
        return int(self.base_url.rpartition(":")[2].partition("/")[0])

    def send(self, how: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, how)

    def kill(self) -> None:
        """Kill the process, and return when it has ended."""
        with suppress(ProcessLookupError):  # it has ended
            self.send(signal.SIGKILL)
        self.wait()

    def next(self) -> str:
        """Return the next line that the process prints; an empty one if it has ended."""
        assert select.select([self._pipe], [], [], ENDED_SECONDS_MAX)[0], f"process {self.pid} prints nothing"
        return self._line()

    def wait_or_stop(self, done: Sequence[Any]) -> None:
        """Return when the process has been killed, or when all of these are done (futures) or set (events)."""
        while not select.select([self._pipe], [], [], LOOK_SECONDS)[0]:
            if all(each.done() if hasattr(each, "done") else each.is_set() for each in done):
                self.kill()
                return
        self.wait()

    def wait(self) -> int | None:
        """Return the exit status when the process has ended; None if it was killed."""
        status = self.next()
        status = self.next() if status == STOPS else status
        self._pipe.close()
        while True:  # its pipe is closed before its socket
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return int(status) if status else None
            time.sleep(0.001)

    def _line(self) -> str:
        return self._pipe.readline().strip()


class ServerParent:
    """Start processes of `threadledger serve`, each on a port that nobody else gets while it is not running."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(Path(__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self._started: list[ServerProcess] = []
        self._lock = threading.Lock()

    def start(self, db_url: str, upstream_url: str, port: int = 0, **order: Any) -> ServerProcess:
        """Start a server in the current folder, and return it when it has printed its address.

        `killed_at` is the number of the moment at which it kills itself, and `stop_seconds` how long its runs may take to end.
        """
        with self._lock:
            return self._start(db_url, upstream_url, port, order)

    def _start(self, db_url: str, upstream_url: str, port: int, order: dict[str, Any]) -> ServerProcess:
        pipe = Path(f"pipe-{len(self._started)}").resolve()
        os.mkfifo(pipe)
        env = {"OPENAI_BASE_URL": upstream_url, "OPENAI_API_KEY": "sk-test", "THREADLEDGER_BACKENDS": "chat"}
        env |= {"THREADLEDGER_THREADS": "none", "THREADLEDGER_RETRIES": "0"}
        order |= {"arguments": ["--db", db_url, "serve", "--port", str(port)], "env": env, "pipe": str(pipe)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._started.append(ServerProcess(pipe.open(encoding="utf-8")))
        return self._started[-1]

    def close(self) -> None:
        """End the process that starts servers."""
        self._process.communicate()

    def end_servers(self) -> None:
        """Kill the servers that still run."""
        for server in self._started:
            if not server._pipe.closed:
                server.kill()
        self._started.clear()


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port that no other program is given; a server can listen on it all the same, again and again.

    A client that connects to a free port may be given that very port, and would be connected to itself.
    """
    with socket.socket() as reserving:
        reserving.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserving.bind(("127.0.0.1", 0))
        yield reserving.getsockname()[1]


def serve() -> None:
    """Fork a server for each order."""
    warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a killed child leaves nothing
    for line in sys.stdin:
        if os.fork() == 0:
            perform(json.loads(line))


def warm_up() -> None:
    """Import what servers use, and run one for a moment: some modules are imported when they are first needed."""
    from threadledger.adapters import load_settings, open_ledger
    from threadledger.adapters.server import open_server

    for name in ("threadledger.cli.serve", "threadledger.domain.exchange.served", "psycopg"):
        import_module(name)
    with TemporaryDirectory() as folder:
        given = {"openai_api_key": "sk-test", "backends": ("chat",), "threads": "none"}
        settings = load_settings(db=f"sqlite:///{folder}/warm.db", **given)
        with open_ledger(settings) as ledger, open_server(ledger, settings, port=0) as server:
            urlopen(f"{server.base_url}/threads").close()


def perform(order: dict[str, Any]) -> None:
    """Run the server of an order, and end the process."""
    from threadledger.adapters.server import runner
    from threadledger.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = Path(order["pipe"]).parent
    os.chdir(folder)
    os.environ.update(order["env"])
    log = os.open(folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, opened in ((1, os.open(order["pipe"], os.O_WRONLY)), (2, log)):
        os.dup2(opened, number)
        os.close(opened)
    runner.LOOK_SECONDS = LOOK_SECONDS
    runner.STOP_SECONDS = order.get("stop_seconds", runner.STOP_SECONDS)
    announce_stop(runner.Runner)
    if (killed_at := order.get("killed_at", NEVER)) != NEVER:
        kill_at(killed_at)
    print(os.getpid(), flush=True)
    status = main(order["arguments"])
    print(status, flush=True)
    os._exit(0)


def announce_stop(runner: Any) -> None:
    """Print a line when a runner lets its runs end, before it waits for them."""
    end = runner._end

    def announced(self: Any, grace_seconds: float) -> None:
        print(STOPS, flush=True)
        end(self, grace_seconds)

    runner._end = announced


def kill_at(number: int) -> None:
    """Let this process kill itself at a moment, by its number."""
    passed, lock = 0, threading.Lock()

    def moment() -> None:
        nonlocal passed
        with lock:
            passed += 1
            if passed == number:
                os.kill(os.getpid(), signal.SIGKILL)

    for module, owner, name in POINTS:
        found = getattr(import_module(module), owner)
        setattr(found, name, counted(getattr(found, name), moment))


def counted(function: Callable[..., Any], moment: Callable[[], None]) -> Callable[..., Any]:
    """Return a function that counts a moment before it is called and another one after it has returned."""

    @functools.wraps(function)
    def blocking(*arguments: Any, **options: Any) -> Any:
        moment()
        result = function(*arguments, **options)
        moment()
        return result

    @functools.wraps(function)
    async def awaited(*arguments: Any, **options: Any) -> Any:
        moment()
        result = await function(*arguments, **options)
        moment()
        return result

    return awaited if inspect.iscoroutinefunction(function) else blocking


if __name__ == "__main__":
    serve()
