"""Rebuild to a file: write the memory of conversations, one line of JSON each, as `import` reads it.

No model is called. This is not a job: no file appears before it is complete, and the same input gives the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import StoreError
from .jobs import JobState
from .journal import Journal
from .pins import CHANGED, moved_on
from .ports import MemoryFile
from .rebuild import RebuildItem

BACKEND = "file"
"""Value used where other rebuilds name the kind of thread."""


class FileRebuildPlan:
    """Plan to write the memory of conversations to one file. The names are those of `RebuildPlan`."""

    kind = "rebuild"
    job: JobState | None = None
    stopped_by_limit = False

    def __init__(
        self,
        journal: Journal,
        file: MemoryFile,
        path: Path,
        pinned: Sequence[tuple[str, int]],
        at: int | datetime | None = None,
    ) -> None:
        self._journal = journal
        self._file = file
        self._path = path
        self._pinned = pinned
        self._at = at

    def __len__(self) -> int:
        return len(self._pinned)

    @property
    def items(self) -> list[RebuildItem]:
        """Return what is planned for each conversation."""
        return list(self.planned())

    def planned(self) -> Iterator[RebuildItem]:
        """Yield what is planned, one conversation at a time."""
        return (self._planned(key) for key, _ in self._pinned)

    def apply(self, progress: Callable[[RebuildItem], None] = lambda item: None, **how: Any) -> list[RebuildItem]:
        """Write the file; it replaces an existing one only after everything was read back and is equal.

        Raises:
            FileMissing: it cannot be written.
            StoreError: what was read back differs from what was written; an existing file is kept.
        """
        items = []
        for item in self.each(**how):
            progress(item)
            items.append(item)
        return items

    def each(self, *, stop: Callable[[], bool] = lambda: False, **how: Any) -> Iterator[RebuildItem]:
        """Write the file like `apply`, but yield each conversation after reading it back.

        If `stop` returns true, no file is left.
        """
        written: dict[str, str] = {}
        left_out: list[RebuildItem] = []

        def memories() -> Iterator[tuple[str, Sequence[dict[str, Any]]]]:
            for key, version in self._pinned:
                if stop():
                    return
                if self._at is None and moved_on(self._journal, key, version):
                    left_out.append(RebuildItem(key, BACKEND, version, state="skipped", reason=CHANGED))
                    continue
                messages = self._messages(key)
                written[key] = self._file.digest(messages)
                yield key, messages

        with self._file.writing(self._path, memories()) as (read_back, accept):
            yield from left_out
            for key, messages in read_back:
                if stop():
                    return
                item = replace(self._planned(key), sent=len(messages), digest=self._file.digest(messages))
                if item.digest != written.pop(key, None):
                    raise StoreError(
                        f"{self._path} differs from what was written when it is read back: nothing was replaced; try again"
                    )
                yield replace(item, state="done", verified=True)
            if stop():
                return
            if written:
                raise StoreError(f"{self._path} is missing {len(written)} conversations: nothing was replaced; retry")
            accept()

    def _planned(self, key: str) -> RebuildItem:
        messages = self._messages(key)
        version = self._journal.require(key).version
        return RebuildItem(key, BACKEND, version, messages=len(messages), digest=self._file.digest(messages))

    def _messages(self, key: str) -> list[dict[str, Any]]:
        return [each.message.as_chat_message() for each in self._journal.memory(key, self._at).messages]
