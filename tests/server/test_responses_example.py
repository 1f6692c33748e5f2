"""The example for Conversations and Responses runs against the server, over a model that only speaks Chat Completions."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .chat_only import ChatOnly

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "responses_app.py"

pytestmark = pytest.mark.skipif(not EXAMPLE.is_file(), reason="the tests run against the wheel, without the tree")


def test_an_app_that_keeps_no_history_talks_resumes_a_stream_and_branches(
    open_api: Callable[..., Any],
    upstream: ChatOnly,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", open_api().base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "answer > You said: Who am I?",
        "stream > You said: And who was she?",
        "branch > You said: Say it in French.",
        "items  > 5",
    ]
    assert [each["content"] for each in upstream.requests[-1]["messages"]] == [
        "My name is Ada.",
        "Who am I?",
        "You said: Who am I?",
        "Say it in French.",
    ]
