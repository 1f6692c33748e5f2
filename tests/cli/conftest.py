"""Commands as they are typed, in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """`command("ask", "k", "text", "-o", "json", stdin=b"...")`."""

    def call(*arguments: str, stdin: bytes = b"") -> Done:
        from threadledger.cli import main

        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        code = main(list(arguments))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Done(code, told.out, told.err)

    return call


@pytest.fixture
def provider(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulator, named by the settings, with assistants first and threads there, as in the story."""
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-key")
    monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "assistants,chat")
    monkeypatch.setenv("THREADLEDGER_THREADS", "assistants")
    return simulator
