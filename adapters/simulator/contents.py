"""Keep the contents of uploaded files on disk, until they are deleted or the simulator is dropped."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from itertools import count
from pathlib import Path


class FileContents:
    """Hold contents by the id of their file, in a temporary folder that is made for the first one."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._numbers = count(1)

    def new(self) -> Path:
        """Return a path for an upload that has no id yet."""
        return self._inside(f"upload-{next(self._numbers)}")

    def keep(self, file_id: str, upload: Path) -> None:
        """Keep an upload under the id of its file."""
        upload.replace(self._inside(file_id))

    def path(self, file_id: str) -> Path | None:
        """Return the path of a content, or None if it was deleted, or uploaded to an earlier simulator."""
        path = self._inside(file_id)
        return path if path.exists() else None

    def drop(self, file_id: str) -> None:
        """Delete a content, if it is there."""
        self._inside(file_id).unlink(missing_ok=True)

    def _inside(self, name: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="threadledger-simulator-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / name
