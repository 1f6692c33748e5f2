"""Commands on a terminal of their own: stdin, stdout and stderr are one, of so many columns."""

from __future__ import annotations

import os
import pty
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import pytest
from freezegun import freeze_time

CALLED = """
import sys
from contextlib import nullcontext
from freezegun import freeze_time
from threadledger.cli import main
with freeze_time(sys.argv[1]) if sys.argv[1] else nullcontext():
    code = main(sys.argv[2:])
sys.exit(code)
"""


def on_a_terminal(
    arguments: Sequence[str],
    *,
    columns: int = 100,
    typed: bytes = b"",
    frozen_at: str = "",
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Exit code, and all that is shown. `typed` is answered at prompts; time stands still at `frozen_at` (ISO 8601)."""
    process, terminal = pty.fork()
    if process == 0:
        own = {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40", "PYTHONIOENCODING": "utf-8"}
        called = [sys.executable, "-c", CALLED, frozen_at, *arguments]
        os.execve(sys.executable, called, os.environ | own | (environment or {}))
    os.write(terminal, typed)
    shown = _read(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode().replace("\r\n", "\n")


def in_this_process(
    arguments: Sequence[str],
    *,
    columns: int = 100,
    typed: bytes = b"",
    frozen_at: str = "",
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a command as `on_a_terminal` does, but in this process, which takes a tenth of the time."""
    from threadledger.cli import main

    terminal, inside = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=lambda: shown.append(_read(terminal)))
    reader.start()
    os.write(terminal, typed)
    with (
        pytest.MonkeyPatch.context() as patched,
        os.fdopen(os.dup(inside), encoding="utf-8") as stdin,
        os.fdopen(os.dup(inside), "w", encoding="utf-8") as stdout,
        os.fdopen(inside, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as stderr,
    ):
        for name, stream in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            patched.setattr(sys, name, stream)
        for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40", **(environment or {})}.items():
            patched.setenv(name, value)
        with freeze_time(frozen_at) if frozen_at else nullcontext():
            code = main(list(arguments))
    reader.join()
    os.close(terminal)
    return code, shown[0].decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    """Return all that is written to a terminal until it is closed."""
    shown = b""
    while True:
        try:
            read = os.read(terminal, 65_536)
        except OSError:
            return shown
        if not read:
            return shown
        shown += read
