"""Run an app of 2024 unchanged: `threadledger serve` in a process of its own, and the app with another base URL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .chat_only import ChatOnly

APP = Path(__file__).resolve().parents[2] / "examples" / "weather_assistant.py"
COMMAND = (sys.executable, "-c", "from threadledger.cli import main; raise SystemExit(main())")
SECONDS_MAX = 180.0

pytestmark = pytest.mark.skipif(not APP.exists(), reason="the tests run against the wheel, without the tree")


@contextmanager
def serving(upstream: ChatOnly, db_url: str) -> Iterator[str]:
    """Run `threadledger serve`, and yield the base URL that it prints; SIGTERM ends it in order."""
    command = [*COMMAND, "--db", db_url, "serve", "--port", "0"]
    env = os.environ | {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "sk-test"}
    env |= {"THREADLEDGER_BACKENDS": "chat", "THREADLEDGER_THREADS": "none"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            base_url = process.stdout.readline().strip()
            assert base_url.endswith("/v1"), process.communicate()
            yield base_url
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=SECONDS_MAX)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said


def test_an_app_of_2024_runs_unchanged_when_its_base_url_is_changed(upstream: ChatOnly, db_url: str) -> None:
    assert "threadledger" not in APP.read_text(encoding="utf-8")
    upstream.calls_functions = True
    with serving(upstream, db_url) as base_url:
        env = os.environ | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "sk-app"}
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(APP)]
        ended = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "run       > completed",
        'function  > get_weather({"place": "Lyon"})',
        "assistant > The function said: 57 degrees and rain in Lyon",
        "user      > Hello!",
        "assistant > You said: Hello!",
        "user      > How is the weather in Lyon?",
        "assistant > The function said: 57 degrees and rain in Lyon",
    ]
    assert upstream.other_paths == []
