"""A real PgBouncer in transaction mode, in front of the server of the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.engine import URL, make_url

from ..conftest import administer
from .postgres_pair import user_of_servers, wait_for

PORT = 6432

SERVER_CONNECTIONS = 2
"""Connections to the server that all clients share."""


def program() -> str | None:
    """Return the path of PgBouncer, which Debian does not put on the path of every user; None if it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def pgbouncer(server_url: str) -> Iterator[Callable[[], str]]:
    """Yield a factory of empty databases behind PgBouncer, by URL; skip the test if it is not installed."""
    command = program()
    if command is None:
        pytest.skip("needs pgbouncer: apt-get install pgbouncer")
    databases: list[str] = []

    def make() -> str:
        databases.append(f"pooled_{uuid4().hex}")
        administer(server_url, f"CREATE DATABASE {databases[-1]}")
        return f"postgresql+psycopg://anyone@/{databases[-1]}?host={place}&port={PORT}"

    server = make_url(server_url)
    place = Path(tempfile.mkdtemp(prefix="threadledger-pooler-"))
    try:
        host = str(server.query.get("host") or server.host or "127.0.0.1")
        (place / "pgbouncer.ini").write_text(_configuration(server, host, place))
        user: str | int | None = user_of_servers()
        if user is not None:  # the server's socket may be open to the server's own user only
            user = Path(host).stat().st_uid if host.startswith("/") else user
            shutil.chown(place, user)
            user = user or None
        with (place / "log").open("wb") as log:
            process = subprocess.Popen([command, str(place / "pgbouncer.ini")], stdout=log, stderr=log, user=user)
        try:
            wait_for(lambda: (place / f".s.PGSQL.{PORT}").exists() or process.poll() is not None)
            assert process.poll() is None, (place / "log").read_text()
            yield make
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    finally:
        shutil.rmtree(place)
        administer(server_url, *(f"DROP DATABASE {database} WITH (FORCE)" for database in databases))


def _configuration(server: URL, host: str, place: Path) -> str:
    known = {"host": host, "port": str(server.query.get("port") or server.port or 5432), "user": server.username}
    known |= {"password": server.password} if server.password else {}
    target = " ".join(f"{name}={value}" for name, value in known.items())
    return f"""
[databases]
* = {target}
[pgbouncer]
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
max_client_conn = 200
query_wait_timeout = 20
auth_type = any
unix_socket_dir = {place}
unix_socket_mode = 0777
listen_port = {PORT}
listen_addr =
"""
