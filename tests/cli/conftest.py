"""Commands as they are typed, in this process."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Done]]:
    """`command("ask", "k", "text", "-o", "json", stdin=b"...")`.

    Afterwards, the logger is as before: a command with -v would let later tests in the same process log more.
    """
    logger = logging.getLogger("threadledger")
    level, handlers = logger.level, list(logger.handlers)

    def call(*arguments: str, stdin: bytes = b"") -> Done:
        from threadledger.cli import main

        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main(list(arguments))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Done(code, told.out, told.err)

    yield call
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def story_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of the story without views, for tests to copy: writing it takes longer than the commands that read it."""
    from freezegun import freeze_time

    from .auditing import NOW, open_story

    path = tmp_path_factory.mktemp("story") / "story.db"
    with freeze_time(NOW):
        open_story(f"sqlite:///{path}").close()
    assert [each.name for each in path.parent.iterdir()] == ["story.db"], "a copy of the file would not be whole"
    return path


@pytest.fixture
def provider(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulator, named by the settings, with assistants first and threads there, as in the story."""
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-key")
    monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "assistants,chat")
    monkeypatch.setenv("THREADLEDGER_THREADS", "assistants")
    return simulator
