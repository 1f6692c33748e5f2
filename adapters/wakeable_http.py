"""Allow another thread to end what a blocking HTTP client waits for: see `Interruption`."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from threadledger.domain.effects import waking


class WakeableBackend:
    """Open connections of httpcore whose reads and writes another thread can end."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(self, *given: Any, **options: Any) -> WakeableStream:
        """Connect to a host; what it waits for until then ends at its timeout."""
        return WakeableStream(self._backend.connect_tcp(*given, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class WakeableStream:
    """Read and write a connection until it is shut down by another thread, which then looks like its end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has arrived."""
        with waking(self._shut_down):
            data: bytes = self._stream.read(max_bytes, timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes."""
        with waking(self._shut_down):
            self._stream.write(buffer, timeout)

    def start_tls(self, *given: Any, **options: Any) -> WakeableStream:
        """Return the connection with TLS on it."""
        connection: socket.socket = self._stream.get_extra_info("socket")
        same = socket.fromfd(connection.fileno(), connection.family, connection.type)  # TLS takes it from its object
        with same, waking(partial(_shut_down, same)):
            return WakeableStream(self._stream.start_tls(*given, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _shut_down(self) -> None:
        _shut_down(self._stream.get_extra_info("socket"))


def _shut_down(connection: socket.socket) -> None:
    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # that of a TLS connection would unwrap it first


def make_wakeable(client: Any) -> Any:
    """Return the HTTP client of an SDK, with connections that another thread can end.

    Neither httpx2 2.16 nor the SDKs have a public way to give a client a network backend and keep its proxies. Without these
    attributes, an interruption waits for the answer of a silent server.
    """
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None:
            pool._network_backend = WakeableBackend(backend)
    return client
