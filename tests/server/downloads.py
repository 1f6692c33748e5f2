"""Download what tests need from a package registry, once for all workers and later runs, into the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threadledger-tests"
DOWNLOAD_SECONDS_MAX = 120


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache; if it is new, `fill` is called with it. A download that fails skips the test."""
    place = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            made = Path(mkdtemp(dir=CACHE))
            try:
                fill(made)
                made.rename(place)
            except (subprocess.SubprocessError, OSError) as error:
                said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                pytest.skip(f"{name} cannot be downloaded: {said[-1] if said else error}")
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return place


def run(*command: str, cwd: Path) -> None:
    """Run a command that downloads."""
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS_MAX)
