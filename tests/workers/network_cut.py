"""A network namespace whose only way out can be cut: a worker in it is a machine that loses its network.

    with namespace() as net:
        url = net.reach("127.0.0.1", 5432)      # host and port under which a process in the namespace reaches that one
        net.cut()
        net.join()

Needs root and Debian's iproute2; a test is skipped without them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

PIECE_BYTES = 1 << 16


class Namespace:
    """One network namespace, joined to the host by a pair of virtual devices."""

    def __init__(self, number: int) -> None:
        self.name = f"tlns{number}"
        self._device = f"tlh{number}"
        self._host = f"10.{200 + number % 50}.{number // 50 % 250}.1"
        self._listening: list[socket.socket] = []

    def make(self) -> None:
        """Create the namespace and the devices."""
        inside, other = f"tln{self.name[4:]}", f"{self._host[:-1]}2"
        for command in (
            f"netns add {self.name}",
            f"link add {self._device} type veth peer name {inside} netns {self.name}",
            f"addr add {self._host}/30 dev {self._device}",
            f"link set {self._device} up",
            f"-n {self.name} addr add {other}/30 dev {inside}",
            f"-n {self.name} link set {inside} up",
            f"-n {self.name} link set lo up",
        ):
            ip(command)

    def reach(self, upstream: str | tuple[str, int]) -> tuple[str, int]:
        """Return where a process in the namespace reaches an address of the host, or the path of a socket."""
        listening = socket.create_server((self._host, 0))
        self._listening.append(listening)
        threading.Thread(target=self._accept, args=(listening, upstream), daemon=True).start()
        return self._host, int(listening.getsockname()[1])

    def cut(self) -> None:
        """Let nothing through any more; connections are not told."""
        ip(f"link set {self._device} down")

    def join(self) -> None:
        """Let everything through again."""
        ip(f"link set {self._device} up")

    def remove(self) -> None:
        """Remove everything."""
        for each in self._listening:
            each.close()
        for command in (f"netns del {self.name}", f"link del {self._device}"):
            with suppress(subprocess.CalledProcessError):  # the first removes both ends
                ip(command)

    def _accept(self, listening: socket.socket, upstream: str | tuple[str, int]) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                family = socket.AF_UNIX if isinstance(upstream, str) else socket.AF_INET
                server = socket.socket(family)
                server.connect(upstream)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            target.sendall(piece)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def ip(command: str) -> None:
    """Run one command of iproute2."""
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Provide a namespace; skip the test where it cannot be made."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and ip: apt-get install iproute2")
    made = Namespace(os.getpid() % 10_000)
    try:
        made.make()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"a network namespace cannot be made here: {error.stderr.decode(errors='replace').strip()}")
    try:
        yield made
    finally:
        made.remove()
