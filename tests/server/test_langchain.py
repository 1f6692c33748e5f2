"""Run an app on LangChain's client of the Responses API against the server, over an upstream that has only Chat Completions.

LangChain is installed into the cache of tests and not into their environment: it brings about twenty packages that nothing
else uses, and the environment's lock stays small. It also brings an openai-python of its own, the newest one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .chat_only import ChatOnly
from .downloads import cached, run

VERSION = "1.7.4"
CLIENT = Path(__file__).with_name("langchain_client.py")
SECONDS_MAX = 120.0


@pytest.fixture
def packages() -> Path:
    """Return a folder with LangChain's client and what it needs, for this version of Python."""

    def fill(place: Path) -> None:
        options = ("--target", str(place), "--retries", "1", "--disable-pip-version-check", "--no-compile", "-q")
        run(sys.executable, "-m", "pip", "install", *options, f"langchain-openai=={VERSION}", cwd=place)

    return cached(f"langchain-openai-{VERSION}-py{sys.version_info.major}.{sys.version_info.minor}", fill)


def test_an_app_on_langchain_works(open_api: Callable[..., Any], upstream: ChatOnly, packages: Path) -> None:
    upstream.calls_functions = True
    upstream.says_json = '{"name": "Ada"}'
    server = open_api()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LANGCHAIN_", "LANGSMITH_"))}
    env |= {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "any", "PYTHONPATH": str(packages)}
    command = [sys.executable, "-P", str(CLIENT)]
    ended = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert ended.returncode == 0, ended.stderr
    weather = ["weather", json.loads(upstream.arguments)]
    assert json.loads(ended.stdout) == {
        "calls": [weather],
        "answer": "The function said: rain in Lyon",
        "streamed_calls": [weather],
        "next": "The function said: rain in Lyon",
        "continued": ["You said: One", "You said: Two", "You said: Three"],
        "said": "You said: Hello",
        "id": True,
        "usage": True,
        "streamed": ["You said: Tell me more", True],
        "whole": ["You said: Tell me more", True],
        "awaited": "You said: Hello",
        "structured": "Ada",
    }
    shown = [[each["content"] for each in sent["messages"]] for sent in upstream.requests]
    assert ["One", "You said: One", "Two", "You said: Two", "Three"] in shown
    assert upstream.other_paths == []
