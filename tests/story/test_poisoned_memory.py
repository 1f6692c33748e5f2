"""What a model said once does not stop a conversation: calls that strict servers refuse, made and asked about again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.ledger import Ledger

from .conftest import MODEL_CALLS
from .test_tools import KINDS

POISON: dict[str, list[dict[str, Any]]] = {
    "arguments broken off": [{"name": "f", "arguments": '{"value": '}],
    "arguments are a list": [{"name": "f", "arguments": "[1]"}],
    "a name with a dot": [{"name": "multi_tool_use.parallel", "arguments": '{"tool_uses": []}'}],
}
STATELESS = {kind: KINDS[kind] for kind in ("stateless responses", "chat")}
"""Backends that are sent the history with each request."""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.toml"
    names = ("f", "multi_tool_use.parallel")
    path.write_text('name = "John"\n' + "".join(f'[[tools]]\nname = "{name}"\n' for name in names), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", STATELESS)
@pytest.mark.parametrize("case", POISON)
def test_a_bad_call_is_answered_in_the_same_run_and_in_later_turns(
    open_ledger: Callable[..., Ledger], simulator: Any, profile: Path, kind: str, case: str
) -> None:
    used: list[str] = []

    def function(**_: Any) -> str:
        used.append("used")
        return "a result"

    ledger = open_ledger({"f": function, "multi_tool_use.parallel": function}, **STATELESS[kind], profile=profile)
    simulator.answer({"tool_calls": POISON[case]}, "First.", "Second.")
    chat = ledger.conversation("k")
    assert [chat.ask("One?").text, chat.ask("Two?").text] == ["First.", "Second."]
    (made,) = [each.message.calls()[0] for each in chat.memory().messages if each.message.calls()]
    assert (made.name, made.arguments) == (POISON[case][0]["name"], POISON[case][0]["arguments"])
    assert len(used) == (case == "a name with a dot")


@pytest.mark.parametrize("kind", STATELESS)
def test_a_model_that_calls_a_function_by_its_valid_name_reaches_the_function(
    open_ledger: Callable[..., Ledger], simulator: Any, profile: Path, kind: str
) -> None:
    ledger = open_ledger({"multi_tool_use.parallel": lambda: "a result"}, **STATELESS[kind], profile=profile)
    chat = ledger.conversation("k")
    chat.ask("One?")
    request = next(each.body for each in simulator.requests if each.template in MODEL_CALLS)
    offered = request["tools"][0]["function"]["name"] if kind == "chat" else request["tools"][0]["name"]
    simulator.answer({"tool_calls": [{"name": offered, "arguments": {}}]}, "Done.")
    assert chat.ask("Two?").text == "Done."
    assert [each.message.calls()[0].name for each in chat.memory().messages if each.message.calls()] == [
        "multi_tool_use.parallel"
    ]
