"""Write a file of memories: one line per conversation, `{"id": KEY, "messages": [Chat Completions messages]}`.

Every ledger has a `MemoryLines`. It is in a separate module, which does not load the code for imports.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from threadledger.domain.errors import FileMissing

Memories = Iterator[tuple[str, Sequence[dict[str, Any]]]]


class MemoryLines:
    """Implement `MemoryFile` with JSON lines."""

    def digest(self, messages: Sequence[dict[str, Any]]) -> str:
        canonical = json.dumps(list(messages), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @contextmanager
    def writing(
        self, path: Path, memories: Iterable[tuple[str, Sequence[dict[str, Any]]]]
    ) -> Iterator[tuple[Memories, Callable[[], None]]]:
        from ..private_files import unfinished_file

        try:
            unfinished, stream = unfinished_file(path)
            with stream as file:
                for key, messages in memories:
                    file.write(json.dumps({"id": key, "messages": messages}, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileMissing(f"{path} cannot be written ({error.strerror}): choose another file") from error
        try:
            yield _read(unfinished), lambda: _put(unfinished, path)
        finally:
            with suppress(FileNotFoundError):  # it has its final name, or was never made
                unfinished.unlink()


def _put(unfinished: Path, path: Path) -> None:
    unfinished.replace(path)


def _read(path: Path) -> Memories:
    with path.open(encoding="utf-8") as file:
        for line in file:
            given = json.loads(line)
            yield given["id"], given["messages"]
