"""A session of the Agents SDK in a ledger: its items come back exactly, and are messages for everyone else."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import threadledger
from threadledger.contrib.agents import Session
from threadledger.domain.conversation.events import MessageJournaled
from threadledger.domain.errors import InvalidInput, InvalidKey
from threadledger.domain.ledger import Ledger

from .both_sessions import BothSessions

KEY = "customer-42"
LONG = "A sentence that is long enough to be kept once, in the message alone."
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40).decode()

ITEMS: dict[str, dict[str, Any]] = {
    "question": {"role": "user", "content": "Where is my parcel?"},
    "full question": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG}]},
    "instructions": {"role": "developer", "content": "Be brief."},
    "image": {
        "role": "user",
        "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"}],
    },
    "file": {"role": "user", "content": [{"type": "input_file", "file_id": "file-1", "filename": "a.pdf"}]},
    "reasoning": {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "A search first."}],
        "encrypted_content": "gAAA" * 2_000,
    },
    "secret reasoning": {"type": "reasoning", "id": "rs_2", "summary": [], "content": [], "encrypted_content": None},
    "call": {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "look_up",
        "arguments": json.dumps({"number": 42, "why": LONG}),
        "status": "completed",
    },
    "bare call": {"type": "function_call", "call_id": "call_2", "name": "look_up", "arguments": "{}"},
    "custom call": {"type": "custom_tool_call", "call_id": "call_3", "name": "sql", "input": "SELECT 1"},
    "result": {"type": "function_call_output", "call_id": "call_1", "output": "in Lyon"},
    "result in parts": {
        "type": "function_call_output",
        "call_id": "call_2",
        "output": [{"type": "input_text", "text": "in Lyon"}, {"type": "input_image", "image_url": "https://x.test/a"}],
        "status": "completed",
    },
    "custom result": {"type": "custom_tool_call_output", "call_id": "call_3", "output": "1"},
    "search": {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    },
    "answer": {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "phase": "final_answer",
        "content": [
            {
                "type": "output_text",
                "text": LONG,
                "annotations": [
                    {"type": "url_citation", "start_index": 0, "end_index": 2, "title": "T", "url": "https://e.x"}
                ],
                "logprobs": [{"token": "A", "logprob": -0.25, "bytes": [65], "top_logprobs": []}],
            }
        ],
    },
    "two texts": {
        "type": "message",
        "id": "msg_2",
        "role": "assistant",
        "content": [{"type": "output_text", "text": LONG}, {"type": "output_text", "text": LONG}],
    },
    "refusal": {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot help."}]},
    "short answer": {"role": "assistant", "content": "It is in Lyon."},
    "empty answer": {"role": "assistant", "content": ""},
    "computer call": {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "call_4",
        "action": {"type": "click", "x": 1, "y": 2, "button": "left"},
        "pending_safety_checks": [],
        "status": "completed",
    },
    "computer result": {
        "type": "computer_call_output",
        "call_id": "call_4",
        "output": {"type": "computer_screenshot", "image_url": f"data:image/png;base64,{PNG}"},
    },
    "servers tools": {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": [{"name": "t"}]},
    "approval": {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    "compaction": {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"},
    "reference": {"type": "item_reference", "id": "msg_1"},
    "encrypted": {"__enc__": 1, "session_id": KEY, "key_id": "k1", "payload": "gAAA"},
    "another kind": {"type": "of_next_year", "fields": {"unknown": [1, 2.5, True, None, {"deep": ["er"]}]}},
    "no kind": {"anything": 1},
    "half a character": {"role": "user", "content": "\ud800 and the rest"},
    "our own key": {"role": "user", "content": {"threadledger_text": 0}, "threadledger_blob": {"encoding": "utf-8"}},
    "a number as text": {"role": "user", "content": 5},
    "many small values": {"type": "program_output", "values": [{"n": number} for number in range(20_000)]},
}


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_each_item_comes_back_exactly_alone_among_others_and_from_another_opening(db_url: str) -> None:
    def expected(item: Any) -> list[Any]:
        return [item, ITEMS["question"], ITEMS["reasoning"], item, ITEMS["answer"], item]

    async def store() -> None:
        with threadledger.open(db_url) as ledger:
            for name, item in ITEMS.items():
                session = Session(name, ledger)
                await session.add_items([item])
                await session.add_items(expected(item)[1:])

    async def read() -> dict[str, Any]:
        with threadledger.open(db_url) as ledger:
            return {name: await Session(name, ledger).get_items() for name in ITEMS}

    run(store())
    found = run(read())
    as_json = {name: json.dumps(items, sort_keys=True) for name, items in found.items()}
    assert as_json == {name: json.dumps(expected(item), sort_keys=True) for name, item in ITEMS.items()}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
any_item = st.sampled_from([*ITEMS.values()]) | st.dictionaries(
    st.sampled_from(["type", "role", "content", "id", "call_id", "output", "name", "arguments", "summary", "status"])
    | st.text(max_size=8),
    json_values | st.sampled_from(["message", "user", "assistant", "tool", "function_call", "reasoning", "system"]),
    max_size=6,
)
calls = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(any_item, max_size=5)),
        st.tuples(st.just("pop"), st.just(None)),
        st.tuples(st.just("clear"), st.just(None)),
        st.tuples(st.just("get"), st.none() | st.integers(-1, 6)),
    ),
    max_size=12,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(calls)
def test_any_items_and_calls_give_what_the_sdks_own_session_gives(ledger: Ledger, calls: Any) -> None:
    async def play() -> None:
        both = BothSessions(Session(f"any-{next(NUMBERS)}", ledger))
        for call, argument in calls:
            match call:
                case "add":
                    await both.add_items(argument)
                case "pop":
                    await both.pop_item()
                case "clear":
                    await both.clear_session()
                case "get":
                    await both.get_items(argument)
        await both.get_items()
        both.close()

    run(play())


NUMBERS = iter(range(10**9))


def test_what_a_session_has_is_shown_to_any_model(ledger: Ledger) -> None:
    names = ("question", "reasoning", "call", "result", "search", "answer", "question", "bare call", "custom call")
    names += ("custom result", "result in parts", "computer call", "computer result", "short answer", "another kind")

    run(Session(KEY, ledger).add_items([ITEMS[each] for each in names]))
    call = {"name": "look_up", "arguments": ITEMS["call"]["arguments"]}
    shown = ledger.conversation(KEY).memory().as_chat_messages()
    assert shown[:4] == [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "in Lyon"},
        {"role": "assistant", "content": LONG},
    ]
    assert [each["role"] for each in shown[4:]] == ["user", "assistant", "tool", "tool", "assistant"]
    assert shown[-1] == {"role": "assistant", "content": "It is in Lyon."}
    assert [each["content"] for each in shown[-3:-1]] == ["in Lyon\n\n[image https://x.test/a]", "1"]


def test_a_text_is_stored_once_with_the_item_that_repeats_it(ledger: Ledger, message_events: Any) -> None:
    run(Session(KEY, ledger).add_items([ITEMS["full question"], ITEMS["answer"], ITEMS["call"]]))
    stored = [json.dumps([each.content, each.tool_calls, each.native]) for each in message_events()]
    assert [each.count(LONG) for each in stored] == [1, 2]  # the answer and its call have it


def test_a_plain_item_is_stored_as_its_message_alone(ledger: Ledger, message_events: Any) -> None:
    names = ("question", "instructions", "bare call", "result", "short answer", "empty answer")
    run(Session(KEY, ledger).add_items([ITEMS[each] for each in names]))
    assert [each.native for each in message_events()] == [{}] * len(names)


def test_what_the_model_did_before_its_answer_is_one_message_with_it(ledger: Ledger, message_events: Any) -> None:
    given = [ITEMS[each] for each in ("question", "reasoning", "search", "answer", "call", "bare call", "result")]

    async def story() -> list[Any]:
        session = Session(KEY, ledger)
        await session.add_items(given)
        popped = [await session.pop_item() for _ in range(3)]
        assert popped == [ITEMS["result"], ITEMS["bare call"], ITEMS["call"]]
        return await session.get_items()

    assert run(story()) == given[:-3]
    assert [(each.role, len(each.tool_calls)) for each in message_events()][:3] == [
        ("user", 0),
        ("assistant", 2),
        ("tool", 0),
    ]
    (_question, answer) = ledger.conversation(KEY).memory().messages
    assert (answer.message.text, answer.message.calls()) == (LONG, ())
    retracted = [each for each in ledger.conversation(KEY).events() if type(each).__name__ == "MessageRetracted"]
    assert {each.reason for each in retracted} == {"an item was removed from the session"}


def test_a_limit_is_of_items_and_reads_no_more_messages(ledger: Ledger) -> None:
    async def story() -> None:
        session = Session(KEY, ledger, session_settings={"limit": 2})
        await session.add_items([{"role": "user", "content": f"number {number}"} for number in range(50)])
        assert [each["content"] for each in await session.get_items()] == ["number 48", "number 49"]
        assert [each["content"] for each in await session.get_items(1)] == ["number 49"]
        assert len(await session.get_items(1_000)) == 50

    run(story())


def test_items_of_one_call_are_one_commit_or_none(ledger: Ledger) -> None:
    session = Session(KEY, ledger)
    run(session.add_items([ITEMS["question"], ITEMS["short answer"]]))
    assert [each.originator_version for each in ledger.conversation(KEY).events()] == [1, 2, 3]
    assert len({each.timestamp for each in ledger.conversation(KEY).events()}) == 1


def nested(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


def around_itself() -> Any:
    item: dict[str, Any] = {"role": "user"}
    item["content"] = [item]
    return item


ODD = {
    "None": (None, "is NoneType"),
    "a number": (5, "is int"),
    "a text": ("yes", "is str"),
    "bytes": (b"yes", "is bytes"),
    "a list": ([], "is list"),
    "a value of bytes": ({"role": "user", "content": b"yes"}, "cannot be stored as JSON (Object of type bytes"),
    "an object": ({"role": "user", "content": object()}, "cannot be stored as JSON (Object of type object"),
    "an odd key": ({("role",): "user"}, "cannot be stored as JSON (keys must be"),
    "itself": (around_itself(), "cannot be stored as JSON (Circular"),
    "deep": ({"content": nested(200)}, "cannot be stored as JSON (it is nested deeper than 200 levels)"),
    "very deep": ({"content": nested(5_000)}, "cannot be stored as JSON ("),
    "a huge number": ({"content": 10**5_000}, "cannot be stored as JSON (Exceeds the limit"),
}


def test_an_item_that_is_none_is_refused_in_one_sentence_and_nothing_is_stored(ledger: Ledger) -> None:
    for item, why in ODD.values():
        with pytest.raises(InvalidInput) as refused:
            run(Session(KEY, ledger).add_items([ITEMS["question"], item]))
        said = str(refused.value)
        assert said.startswith(f"item 2 of the session {why}")
        assert ": nothing was stored; " in said
    assert ledger.conversations() == []


def test_items_are_a_list_and_the_deepest_come_back(ledger: Ledger) -> None:
    odd: Any
    for odd in ("yes", ITEMS["question"], iter([ITEMS["question"]])):
        with pytest.raises(InvalidInput, match=r"^the items are \w+: nothing was stored; give a list of dicts$"):
            run(Session(KEY, ledger).add_items(odd))
    assert ledger.conversations() == []
    deepest = {"role": "user", "content": nested(198)}
    run(Session(KEY, ledger).add_items([deepest]))
    assert run(Session(KEY, ledger).get_items()) == [deepest]


def test_messages_of_the_ledger_are_items_too(ledger: Ledger) -> None:
    chat = ledger.conversation(KEY)
    chat.append("user", "Where is my parcel?")
    with chat.run(backend="mine", model="llama") as own:
        own.complete(
            "Which number?", tool_calls=[{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        )
    chat.append("tool", "42", tool_call_id="c1")
    chat.append(
        "user", [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]
    )
    assert run(Session(KEY, ledger).get_items()) == [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": "Which number?"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "see"},
                {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "auto"},
            ],
        },
    ]


def test_items_survive_an_export_and_an_import_into_another_ledger(ledger: Ledger, tmp_path: Any) -> None:
    from threadledger.adapters import export_lines, import_lines

    names = ("question", "reasoning", "call", "result", "answer", "many small values", "half a character")
    given = [ITEMS[each] for each in names]
    run(Session(KEY, ledger).add_items(given))
    lines = [each.encode() for each in export_lines(ledger, [KEY])]
    with threadledger.open(tmp_path / "other.db", threads="none") as other:
        assert [each.state for each in import_lines(other, lines)] == ["imported"]
        found = run(Session(KEY, other).get_items())
    assert found == given


def test_a_fork_has_the_items_of_its_original(ledger: Ledger) -> None:
    given = [ITEMS[each] for each in ("question", "reasoning", "call", "result", "answer")]

    async def story() -> None:
        await Session(KEY, ledger).add_items(given)
        ledger.fork(KEY, "copy")
        assert await Session("copy", ledger).get_items() == given

    run(story())


def test_sessions_of_many_threads_lose_nothing(ledger: Ledger) -> None:
    begin = threading.Barrier(8)

    def write(number: int) -> None:
        begin.wait()

        async def add() -> None:
            session = Session(KEY, ledger)
            for each in range(5):
                await session.add_items([{"role": "user", "content": f"{number}/{each}"}])

        asyncio.run(add())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = [each["content"] for each in run(Session(KEY, ledger).get_items())]
    assert sorted(found) == sorted(f"{number}/{each}" for number in range(8) for each in range(5))
    for number in range(8):
        assert [each for each in found if each.startswith(f"{number}/")] == [f"{number}/{each}" for each in range(5)]


def test_parallel_pops_remove_each_item_once(ledger: Ledger) -> None:
    given = [{"role": "user", "content": str(number)} for number in range(12)]

    async def story() -> list[Any]:
        await Session(KEY, ledger).add_items(given)
        return await asyncio.gather(*(Session(KEY, ledger).pop_item() for _ in range(14)))

    popped = run(story())
    assert sorted(each["content"] for each in popped if each) == sorted(each["content"] for each in given)
    assert popped.count(None) == 2


def test_a_write_is_complete_before_its_cancelled_caller_is_told(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    commit = ledger.journal.commit

    def slow(*args: Any, **options: Any) -> Any:
        begun.set()
        go_on.wait(30)
        return commit(*args, **options)

    monkeypatch.setattr(ledger.journal, "commit", slow)

    async def story() -> list[Any]:
        task = asyncio.create_task(Session(KEY, ledger).add_items([ITEMS["question"]]))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await Session(KEY, ledger).get_items()

    assert run(story()) == [ITEMS["question"]]


def test_a_session_closes_the_ledger_that_it_opened_and_no_other(ledger: Ledger, tmp_path: Any) -> None:
    own, shared = Session(KEY, tmp_path / "own.db"), Session(KEY, ledger)
    for session in (own, shared):
        session.close()
        session.close()
        for call in (session.get_items, session.pop_item, session.clear_session, partial(session.add_items, [])):
            with pytest.raises(RuntimeError, match="the session 'customer-42' is closed: open another one"):
                run(call())
    ledger.conversation(KEY).append("user", "still open")
    with pytest.raises(threadledger.StoreError):
        own.ledger.conversation(KEY).append("user", "closed")


def test_a_session_takes_an_awaited_ledger_and_the_one_of_the_settings(
    db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)

    async def story() -> list[Any]:
        async with threadledger.open_async() as ledger:
            await Session(KEY, ledger).add_items([ITEMS["question"]])
        session = Session(KEY)
        items = await session.get_items()
        session.close()
        return items

    assert run(story()) == [ITEMS["question"]]


def test_a_key_that_is_none_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidKey):
        Session("", ledger)


def test_an_empty_session_is_empty_and_makes_no_conversation(ledger: Ledger) -> None:
    async def story() -> None:
        session = Session(KEY, ledger)
        await session.add_items([])
        await session.clear_session()
        assert (await session.get_items(), await session.pop_item()) == ([], None)

    run(story())
    assert ledger.conversations() == []


def test_an_agents_items_are_the_memory_of_an_actor(ledger: Ledger) -> None:
    run(Session(KEY, ledger.as_actor("app")).add_items([ITEMS["question"]]))
    (event,) = (each for each in ledger.conversation(KEY).events() if isinstance(each, MessageJournaled))
    assert event.actor == "app"
