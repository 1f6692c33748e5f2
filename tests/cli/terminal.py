"""Commands on a terminal of their own: stdin, stdout and stderr are one, of so many columns."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Mapping, Sequence

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
    shown = b""
    while True:
        try:
            read = os.read(terminal, 65_536)
        except OSError:
            break
        if not read:
            break
        shown += read
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode().replace("\r\n", "\n")
