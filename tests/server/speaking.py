"""Speak to a server without an SDK, byte by byte if necessary."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

OWN_KEY, READ_KEY, OTHER_KEY = "tl-planted-own-key-0001", "tl-planted-read-key-0002", "tl-planted-other-key-0003"
SECONDS_MAX = 30.0
"""Maximum time for an answer; tests that pass are far from it."""


@dataclass(frozen=True)
class Key:
    name: str
    tenant: str = ""
    read_only: bool = False


@dataclass
class Keys:
    """Keys as the server looks them up."""

    known: dict[str, Key] = field(
        default_factory=lambda: {
            OWN_KEY: Key("own", "acme"),
            READ_KEY: Key("reader", "acme", read_only=True),
            OTHER_KEY: Key("other"),
        }
    )

    def find(self, key: str) -> Key | None:
        return self.known.get(key)

    def any_exists(self) -> bool:
        return bool(self.known)


@dataclass(frozen=True)
class Answered:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> dict[str, Any]:
        """Return the error of the provider's envelope, which every refusal has."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"].startswith("req_")
        assert self.headers["openai-version"]
        assert list(self.json) == ["error"]
        assert list(self.json["error"]) == ["message", "type", "param", "code"]
        error: dict[str, Any] = self.json["error"]
        return error


def say(server: Any, method: str, path: str, body: Any = None, **headers: str | bytes) -> Answered:
    """Send one request, and return the answer; underscores in names of headers are dashes."""
    payload = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if payload is not None and "content-type" not in {name.lower() for name in given}:
        given["content-type"] = "application/json"
    connection = http.client.HTTPConnection(server.host, server.port, timeout=SECONDS_MAX)
    try:
        connection.request(method, path, payload, given)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answered(answer.status, found, answer.read())
    finally:
        connection.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@contextmanager
def connected(server: Any) -> Iterator[socket.socket]:
    """Yield a connection to a server."""
    with socket.create_connection((server.host, server.port), SECONDS_MAX) as line:
        yield line


def head(server: Any, method: str, path: str, *lines: str) -> bytes:
    """Return the beginning of a request, up to its body."""
    first = f"{method} {path} HTTP/1.1"
    return "\r\n".join([first, f"Host: {server.host}:{server.port}", *lines, "", ""]).encode()


def read(line: socket.socket) -> Answered:
    """Return the next answer on a connection."""
    answer = http.client.HTTPResponse(line)
    answer.begin()
    found = {name.lower(): value for name, value in answer.getheaders()}
    return Answered(answer.status, found, answer.read())


def is_closed(line: socket.socket) -> bool:
    """Wait for more bytes, and return whether the other side has closed the connection instead."""
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


def accepts(server: Any) -> bool:
    """Return whether a server accepts connections."""
    try:
        with connected(server):
            return True
    except OSError:
        return False


def until(condition: Any) -> None:
    """Poll a condition that another thread or process fulfils."""
    end = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
