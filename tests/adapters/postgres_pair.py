"""Two PostgreSQL servers, a primary and its standby, made with Debian's programs; a test may kill, promote and rebuild them.

    with pair() as servers:                         # synchronous=False for a standby that may lag behind
        open_at(servers.url)
        servers.primary.kill()
        servers.promote()
        servers.add_standby()                       # a new one, copied from the server that was promoted

Everything is in one temporary folder and on loopback, and is removed at the end. As root, the servers run as another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy

PROGRAMS = ("initdb", "pg_basebackup", "postgres")

SERVER_SECONDS_MAX = 60.0
"""Maximum time in which a server has to start, to stop, to attach or to be promoted, in seconds."""

_QUICK = {
    "fsync": "off",  # processes are killed, not the machine
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "wal_keep_size": "64MB",
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
}


def programs() -> Path | None:
    """Return the folder with the server's programs, which Debian does not put on the path; None if they are not installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True
    )
    on_path = shutil.which("initdb")
    places = [*found, *([Path(on_path).parent] if on_path else [])]
    return next((each for each in places if all((each / name).exists() for name in PROGRAMS)), None)


def user_of_servers() -> str | None:
    """Return the user to whom a root process hands the server, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {each.pw_name for each in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


class Node:
    """One server with its data in a folder. It listens on a port of its own, which it keeps over a restart."""

    def __init__(self, data: Path, programs: Path, user: str | None) -> None:
        self.data = data
        self.port = _free_port()
        self._programs = programs
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd=self.data.parent)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {**_QUICK, "port": str(self.port), "unix_socket_directories": str(self.data.parent)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.data), *options]

        def answers() -> bool:
            """A server that finds its port or its memory still in use ends at once, and is started again."""
            if self._process is None or self._process.poll() is not None:
                with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
                    self._process = subprocess.Popen(
                        command, stdout=log, stderr=log, user=self._user, cwd=self.data.parent
                    )
            return bool(self.ask("SELECT 1"))

        wait_for(answers)

    def ask(self, statement: str) -> list[Any]:
        """Return the rows of a statement; none if the server does not answer."""
        engine = sqlalchemy.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
        with suppress(sqlalchemy.exc.OperationalError), engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []
        return []

    def set(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        self.ask(f"ALTER SYSTEM SET {name} = '{value}'")
        self.ask("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """Stop the server as an administrator would."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server with all its processes at once, as if its machine had failed."""
        if self._process is not None and self._process.poll() is None:
            served = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self._end(signal.SIGKILL)
            for pid in served:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(SERVER_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


class Pair:
    """A primary and its standby; the standby takes part in every commit if the pair is synchronous."""

    def __init__(self, place: Path, programs: Path, *, synchronous: bool) -> None:
        self._place = place
        self._programs = programs
        self._synchronous = synchronous
        self._user = user_of_servers()
        self._nodes: list[Node] = []
        self.primary = self.standby = self._node()

    def start(self) -> None:
        """Create and start both servers."""
        if self._user is not None:
            shutil.chown(self._place, self._user)
        self.primary.run("initdb", "-D", str(self.primary.data), "-A", "trust", "-U", "postgres", "--no-sync")
        self.primary.start()
        self.add_standby()

    @property
    def url(self) -> str:
        """Return the URL of the pair in libpq's form, for the server that accepts writes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in (self.primary, self.standby))
        return f"postgresql+psycopg://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def add_standby(self) -> None:
        """Add a standby copied from the primary, in place of one that is gone: it has that one's port."""
        before = None if self.standby is self.primary else self.standby
        node = self._node()
        node.port = before.port if before is not None else node.port
        source = f"host=127.0.0.1 port={self.primary.port} user=postgres application_name={node.data.name}"
        node.run("pg_basebackup", "-D", str(node.data), "-d", source, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        node.start()
        self.standby = node
        if self._synchronous:
            self.primary.set("synchronous_standby_names", node.data.name)
        wanted = "sync" if self._synchronous else "async"
        states = f"SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '{wanted}'"
        wait_for(lambda: bool(self.primary.ask(states)))

    def part(self) -> None:
        """Let the standby receive nothing from now on; it has everything that was committed before."""
        ((end,),) = self.primary.ask("SELECT pg_current_wal_lsn()")
        wait_for(lambda: self.standby.ask(f"SELECT pg_last_wal_replay_lsn() >= '{end}'") == [(True,)])
        self.standby.set("primary_conninfo", "")
        wait_for(lambda: self.primary.ask("SELECT count(*) FROM pg_stat_replication") == [(0,)])

    def promote(self) -> None:
        """Make the standby the primary. It waits for no standby of its own until one is added."""
        assert self.standby.ask(f"SELECT pg_promote(true, {SERVER_SECONDS_MAX:.0f})") == [(True,)]
        self.standby.set("synchronous_standby_names", "")
        self.primary, self.standby = self.standby, self.primary

    def close(self) -> None:
        """Kill both servers; their data is removed with the folder."""
        for node in self._nodes:
            node.kill()

    def _node(self) -> Node:
        self._nodes.append(Node(self._place / f"node{len(self._nodes)}", self._programs, self._user))
        return self._nodes[-1]


@contextmanager
def pair(*, synchronous: bool = True) -> Iterator[Pair]:
    """Provide a running pair; skip the test if PostgreSQL's programs are not installed."""
    import pytest

    found = programs()
    if found is None:
        pytest.skip("needs initdb and pg_basebackup: apt-get install postgresql")
    place = Path(tempfile.mkdtemp(prefix="threadledger-pair-"))
    servers = Pair(place, found, synchronous=synchronous)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()
        shutil.rmtree(place, ignore_errors=True)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail if it does not in `SERVER_SECONDS_MAX`."""
    ticks = threading.Event()
    for _ in range(int(SERVER_SECONDS_MAX / 0.02)):
        if condition():
            return
        ticks.wait(0.02)
    raise AssertionError("a server does not do what was waited for")


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
