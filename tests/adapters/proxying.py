"""A proxy in front of a PostgreSQL server that loses what it is told to lose, in the protocol's own pieces."""

from __future__ import annotations

import random
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.engine import URL, make_url

PASS = "pass"
LOSE_REQUEST = "lose the request"
"""It never arrives, and the connection breaks."""
LOSE_ANSWER = "lose the answer"
"""It arrives and is done; the connection breaks before the answer comes through."""
LEAVE_UNDER_WAY = "leave it under way"
"""It arrives; the connection breaks for the client alone: the server goes on with it, and does not know."""

Fate = Callable[[bytes], str]
"""What becomes of a piece of what the client sends."""

_SOCKET = ".s.PGSQL.5432"
_PIECE_BYTES = 1 << 20


class Proxy:
    """Listens in a folder of its own; `fate` may be exchanged at any time."""

    def __init__(self, upstream: URL, place: Path) -> None:
        self.fate: Fate = lambda piece: PASS
        self.lost: list[str] = []
        """What was done to requests, one after the other."""
        own = {"host": str(place), "application_name": place.name}
        self.url = upstream.set(host=None, port=None).update_query_dict(own)
        self._upstream = upstream
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(place / _SOCKET))
        self._listening.listen(64)
        self._left: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Listen no more, and let go of what was left under way."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for server in self._left:
            server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = self._connect()
        except OSError:
            client.close()
            return
        keep = False
        with suppress(OSError):
            keep = self._pass_on(client, server)
        client.close()
        if keep:
            self._left.append(server)
        else:
            server.close()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Until one side ends, or is made to; whether the server's side stays open."""
        while True:
            ready, _, _ = select.select([client, server], [], [])
            if server in ready:
                piece = server.recv(_PIECE_BYTES)
                if not piece:
                    return False
                client.sendall(piece)
            if client in ready:
                piece = client.recv(_PIECE_BYTES)
                if not piece:
                    return False
                fate = self.fate(piece)
                if fate != PASS:
                    self.lost.append(fate)
                if fate == LOSE_REQUEST:
                    return False
                server.sendall(piece)
                if fate == LEAVE_UNDER_WAY:
                    return True
                if fate == LOSE_ANSWER:
                    server.recv(_PIECE_BYTES)
                    return False

    def _connect(self) -> socket.socket:
        folder = self._upstream.query.get("host", "")
        if str(folder).startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{folder}/{_SOCKET}")
            return server
        return socket.create_connection((self._upstream.host or "localhost", self._upstream.port or 5432))


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """A proxy in front of the server of this URL; use `proxy.url` in its place."""
    place = Path(tempfile.mkdtemp(prefix="threadledger-proxy-"))
    standing = Proxy(make_url(url), place)
    try:
        yield standing
    finally:
        standing.close()
        shutil.rmtree(place)


def once(fate: str, marker: bytes) -> Fate:
    """This fate for the first piece that holds the marker."""
    met: list[bytes] = []

    def decide(piece: bytes) -> str:
        if marker not in piece or met:
            return PASS
        met.append(piece)
        return fate

    return decide


def by_chance(seed: int, marker: bytes, fates: Sequence[str], share: float) -> Fate:
    """One of these fates for a share of the pieces that hold the marker."""
    rng, lock = random.Random(seed), threading.Lock()

    def decide(piece: bytes) -> str:
        with lock:
            return rng.choice(fates) if marker in piece and rng.random() < share else PASS

    return decide
