"""Calls that wait for a client, who may never come back: whatever is said next ends the wait, and results are continued."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.domain.conversation import events as e
from threadledger.domain.ledger import Ledger

from .chat_only import ChatOnly
from .test_responses_api import FUNCTION, ask, of, shown

CALLER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
HEADERS = "x-threadledger-conversation"


@pytest.fixture
def api(open_api: Callable[..., Any]) -> Iterator[OpenAI]:
    with OpenAI(base_url=open_api(retries=0).base_url, api_key="any", max_retries=0) as sdk:
        yield sdk


def waiting_response(api: OpenAI, key: str) -> str:
    return ask(api, "Weather?", conversation=key, tools=[FUNCTION]).output[0].call_id


def waiting_completion(api: OpenAI, key: str) -> str:
    said: Any = [{"role": "user", "content": "Weather?"}]
    answer = api.chat.completions.create(
        model="gpt-5.5", messages=said, tools=[CALLER], store=True, extra_headers={HEADERS: key}
    )
    return (answer.choices[0].message.tool_calls or [])[0].id


def _item(api: OpenAI, ledger: Ledger, key: str) -> Any:
    return api.conversations.items.create(key, items=[{"type": "message", "role": "user", "content": "Never mind"}])


def _edit(api: OpenAI, ledger: Ledger, key: str) -> Any:
    first = ledger.conversation(key).memory().messages[0].message_id
    return ledger.conversation(key).edit(first or "", "Never mind")


NEXT: dict[str, Callable[[OpenAI, Ledger, str], Any]] = {
    "items": _item,
    "a response": lambda api, ledger, key: ask(api, "Never mind", conversation=key),
    "a question of an app": lambda api, ledger, key: ledger.conversation(key).ask("Never mind"),
    "an edit": _edit,
    "deletion": lambda api, ledger, key: ledger.conversation(key).delete(),
}


@pytest.mark.parametrize("waits", [waiting_response, waiting_completion], ids=["response", "completion"])
@pytest.mark.parametrize("next_", list(NEXT.values()), ids=list(NEXT))
def test_what_comes_next_does_not_wait_for_the_results_of_calls(
    api: OpenAI,
    upstream: ChatOnly,
    ledger: Ledger,
    waits: Callable[[OpenAI, str], str],
    next_: Callable[[OpenAI, Ledger, str], Any],
) -> None:
    key = api.conversations.create().id
    upstream.calls_functions = True
    waits(api, key)
    [waiting] = of(ledger, e.RunCompleted)
    upstream.calls_functions = False
    next_(api, ledger, key)
    assert [each.exchange_id for each in of(ledger, e.ExchangeAbandoned)] == [
        each.exchange_id for each in of(ledger, e.RunStarted) if each.run_id == waiting.run_id
    ]


def test_results_that_are_added_as_items_are_continued_by_the_next_response(
    api: OpenAI, upstream: ChatOnly, ledger: Ledger
) -> None:
    key = api.conversations.create().id
    upstream.calls_functions = True
    call_id = waiting_response(api, key)
    api.conversations.items.create(key, items=[{"type": "function_call_output", "call_id": call_id, "output": "Sunny"}])
    answer = ask(api, [], conversation=key, tools=[FUNCTION])
    assert (answer.output_text, shown(upstream)[-1]) == ("The function said: Sunny", "Sunny")
    assert (of(ledger, e.ExchangeAbandoned), len({each.exchange_id for each in of(ledger, e.RunStarted)})) == ([], 1)


def test_the_rerun_of_results_on_another_branch_is_skipped_until_they_are_selected(
    api: OpenAI, upstream: ChatOnly, ledger: Ledger
) -> None:
    key = api.conversations.create().id
    upstream.calls_functions = True
    call_id = waiting_response(api, key)
    upstream.fail(500)
    result: Any = {"type": "function_call_output", "call_id": call_id, "output": "Sunny"}
    with pytest.raises(openai.InternalServerError):
        ask(api, [result], conversation=key, tools=[FUNCTION])
    [failure] = ledger.failures()
    sent = len(upstream.requests)
    [item] = ledger.replay.plan_rerun([failure.run_id]).items
    assert "is on another branch: select it first with: threadledger branch select" in item.reason
    assert len(upstream.requests) == sent
    ledger.conversation(key).select_branch(item.reason.split()[-1])
    ledger.replay.plan_rerun([failure.run_id]).apply()
    assert [each.role_name for each in ledger.conversation(key).memory().messages][2:] == ["tool", "assistant"]
