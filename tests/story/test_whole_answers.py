"""Keep everything that a model answered: citations, reasoning, hosted calls, images, refusals, and each message apart."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from tests.simulator.helpers import FILE_CITATION, OUTPUTS, URL_CITATION
from threadledger.adapters import Simulator
from threadledger.domain.conversation import events
from threadledger.domain.exchange import Delta

pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

STATELESS = {"backends": ("responses",), "threads": "none", "retries": 0}
IN_CONVERSATION = {"backends": ("responses",), "threads": "conversations", "retries": 0}
CHAT = {"backends": ("chat",), "threads": "none", "retries": 0}
WAYS = pytest.mark.parametrize("settings", [STATELESS, IN_CONVERSATION], ids=["stateless", "in a conversation"])
HOW = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])

PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(9_000)).decode()
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "One step."}],
    "encrypted_content": "gAAAAAB" + "x" * 6_000,
}
EVERYTHING = [
    REASONING,
    {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "parcel", "queries": ["parcel"]}},
    {"type": "message", "content": "I look.", "phase": "commentary"},
    {"type": "image_generation_call", "id": "ig_1", "result": PNG},
    {
        "type": "message",
        "phase": "final_answer",
        "content": [{"type": "output_text", "text": "It is in Bern.", "annotations": [URL_CITATION]}],
    },
]


def asked(chat: Any, streamed: bool) -> tuple[Any, list[str]]:
    """Return the answer, and the text of each message as it was streamed."""
    if not streamed:
        return chat.ask("Where?"), []
    parts = list(chat.stream("Where?"))
    texts: dict[int, str] = {}
    for part in parts:
        if isinstance(part, Delta):
            texts[part.message] = texts.get(part.message, "") + part.text
    return parts[-1], [texts[number] for number in sorted(texts)]


def journaled(ledger: Any, key: str = "k") -> list[Any]:
    return [each for each in ledger.journal.history(key) if isinstance(each, events.MessageJournaled)]


@HOW
@WAYS
def test_every_item_of_an_answer_is_kept(
    open_ledger: Callable[..., Any], simulator: Simulator, settings: dict[str, Any], streamed: bool
) -> None:
    ledger = open_ledger(**settings)
    simulator.answer({"output": EVERYTHING})
    answer, pieces = asked(ledger.conversation("k"), streamed)
    assert answer.text == "It is in Bern."
    assert answer.losses == {}
    _, first, second = journaled(ledger)
    assert [part["type"] for part in first.content] == ["reasoning", "hosted_call", "text"]
    assert first.content[1] == {"type": "hosted_call", "name": "web_search", "status": "completed", "detail": "parcel"}
    assert first.content[2]["text"] == "I look."
    assert (first.extra, second.extra) == ({"phase": "commentary"}, {"phase": "final_answer"})
    image, text = second.content
    assert image["image_url"]["media_type"] == "image/png"
    assert text == {"type": "text", "text": "It is in Bern.", "annotations": [URL_CITATION]}
    assert streamed is False or pieces == ["I look.", "It is in Bern."]
    [verified] = ledger.replay.verify(keys=["k"]) if settings is IN_CONVERSATION else [None]
    assert verified is None or verified.found.state == "same"


@WAYS
def test_long_texts_of_items_are_blobs_and_come_back_equal(
    open_ledger: Callable[..., Any], simulator: Simulator, settings: dict[str, Any]
) -> None:
    from threadledger.domain.conversation.native import items_in

    ledger = open_ledger(**settings)
    simulator.answer({"output": EVERYTHING})
    ledger.conversation("k").ask("Where?")
    _, first, second = journaled(ledger)
    [reasoning, search, *_] = first.native["items"]
    assert reasoning["encrypted_content"].keys() == {"threadledger_blob", "encoding"}
    assert reasoning["encrypted_content"]["threadledger_blob"] in first.blobs
    assert len(json.dumps(first.native)) < 2_000
    assert search["action"]["query"] == "parcel"
    place = first.native["at"]
    read = ledger.journal.read_blob
    [restored, *_] = items_in(json.dumps(first.native), "responses", place, read)
    assert {name: restored[name] for name in REASONING} == REASONING
    [image, *_] = items_in(json.dumps(second.native), "responses", place, read)
    assert image["result"] == PNG
    assert items_in(json.dumps(first.native), "responses", "elsewhere", read) == []
    assert set(second.blobs) == {second.content[0]["image_url"]["blob"]}  # the image and the result are one blob


@pytest.mark.parametrize("settings", [STATELESS, IN_CONVERSATION, CHAT], ids=["stateless", "conversation", "chat"])
def test_a_plain_answer_is_stored_as_before(
    open_ledger: Callable[..., Any], simulator: Simulator, settings: dict[str, Any]
) -> None:
    ledger = open_ledger(**settings)
    ledger.conversation("k").ask("Where?")
    answer = journaled(ledger)[-1]
    assert events.payload_of(answer).keys() == {"message_id", "role", "content", "exchange_id", "run_id", "source"}
    assert answer.content == "You said: Where?"


def test_citations_of_chat_and_of_threads_are_kept(open_ledger: Callable[..., Any], simulator: Simulator) -> None:
    ledger = open_ledger(**CHAT)
    simulator.answer({"output": OUTPUTS["citations"]})
    ledger.conversation("k").ask("Where?")
    [text] = journaled(ledger)[-1].content
    assert [each["type"] for each in text["annotations"]] == ["url_citation"]
    threads = open_ledger(backends=("assistants",), threads="assistants", retries=0)
    for streamed in (False, True):
        simulator.answer({"output": OUTPUTS["citations"]})
        asked(threads.conversation("t"), streamed)
        [text] = journaled(threads, "t")[-1].content
        assert {each["type"] for each in text["annotations"]} == {FILE_CITATION["type"]}
    [verified] = threads.replay.verify(keys=["t"])
    assert verified.found.state == "same"


@HOW
def test_a_refusal_is_readable_and_known_as_one(
    open_ledger: Callable[..., Any], simulator: Simulator, streamed: bool
) -> None:
    for key, settings in {"r": STATELESS, "c": CHAT}.items():
        ledger = open_ledger(**settings)
        simulator.answer({"output": OUTPUTS["refusal"]})
        answer, _ = asked(ledger.conversation(key), streamed)
        assert answer.text == "I cannot help."
        assert journaled(ledger, key)[-1].extra == {"refusal": "I cannot help."}


def test_an_answer_may_be_an_image_alone(open_ledger: Callable[..., Any], simulator: Simulator) -> None:
    ledger = open_ledger(**IN_CONVERSATION)
    simulator.answer({"output": OUTPUTS["image"]})
    chat = ledger.conversation("k")
    answer = chat.ask("Draw.")
    assert answer.text == ""
    [part] = journaled(ledger)[-1].content
    assert b"".join(ledger.journal.read_blob(part["image_url"]["blob"])) == b"\x89PNG\r\n\x1a\n"
    [verified] = ledger.replay.verify(keys=["k"])
    assert verified.found.state == "same"
    assert chat.ask("And now?").text == "You said: And now?"


def test_views_for_others_show_neither_reasoning_nor_hosted_calls(
    open_ledger: Callable[..., Any], simulator: Simulator
) -> None:
    ledger = open_ledger(**STATELESS)
    simulator.answer({"output": EVERYTHING})
    chat = ledger.conversation("k")
    chat.ask("Where?")
    shown = chat.memory().as_chat_messages()
    assert [each["content"] for each in shown] == ["Where?", "I look.", "[image_url not shown]\n\nIt is in Bern."]
    assert chat.memory().lost_parts("chat")[0] == {"part:image_url": 1}
    assert all(each.keys() == {"role", "content"} for each in shown)


def sent_items(simulator: Simulator) -> list[Any]:
    body: Any = [each for each in simulator.requests if each.template == "POST /responses"][-1].body
    return list(body["input"])


WEATHER = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": {"city": "Bern"}}


def test_reasoning_is_sent_again_with_the_call_that_it_led_to(
    open_ledger: Callable[..., Any], simulator: Simulator, tmp_path: Any
) -> None:
    ledger = open_ledger({"weather": lambda city: "sunny"}, profile=weather_profile(tmp_path), **STATELESS)
    simulator.answer({"output": [REASONING, "I look.", WEATHER]}, {"output": [REASONING, "Sunny."]})
    chat = ledger.conversation("k")
    assert chat.ask("Weather?").text == "Sunny."
    items = sent_items(simulator)
    assert [each["type"] for each in items] == [
        "message",
        "reasoning",
        "message",
        "function_call",
        "function_call_output",
    ]
    assert items[1] == REASONING
    chat.ask("Thanks.")  # what led to earlier answers is not needed any more
    assert "reasoning" not in [each["type"] for each in sent_items(simulator)]


def test_reasoning_is_requested_once_a_model_was_seen_to_reason(
    open_ledger: Callable[..., Any], simulator: Simulator
) -> None:
    ledger = open_ledger(**STATELESS)
    chat = ledger.conversation("k")
    simulator.answer("Hello.", {"output": [REASONING, "Hm."]})
    included = []
    for _ in range(3):
        chat.ask("Hello?")
        body: Any = simulator.requests[-1].body
        included.append(body.get("include"))
    assert included == [None, None, ["reasoning.encrypted_content"]]


def test_a_server_that_does_not_know_encrypted_reasoning_is_not_asked_for_it_again(
    open_ledger: Callable[..., Any], simulator: Simulator
) -> None:
    ledger = open_ledger(**STATELESS)
    chat = ledger.conversation("k")
    simulator.answer({"output": [REASONING, "Hm."]})
    chat.ask("Hello?")
    refusal = {"status": 400, "message": "Encrypted content is not supported with this model.", "param": "include"}
    simulator.add_fault("POST /responses", refuse=refusal)
    answer = chat.ask("And now?")
    assert (answer.text, answer.failures) == ("You said: And now?", [])
    chat.ask("Thanks.")
    bodies: list[Any] = [each.body for each in simulator.requests]
    assert ["include" in body for body in bodies] == [False, True, False, False]


def weather_profile(folder: Any) -> str:
    path = folder / "profile.toml"
    path.write_text(
        'name = "John"\ninstructions = ""\n[[tools]]\ntype = "function"\n[tools.function]\nname = "weather"\n'
        'parameters = {type = "object", properties = {city = {type = "string"}}}\n',
        encoding="utf-8",
    )
    return str(path)


def test_phases_are_sent_again(open_ledger: Callable[..., Any], simulator: Simulator) -> None:
    ledger = open_ledger(**STATELESS)
    simulator.answer({"output": OUTPUTS["two messages"]})
    chat = ledger.conversation("k")
    chat.ask("What time is it?")
    chat.ask("Thanks.")
    phases = [each.get("phase") for each in sent_items(simulator)]
    assert phases == [None, "commentary", "final_answer", None]


def test_the_hash_of_a_memory_covers_what_is_kept_besides(
    open_ledger: Callable[..., Any], simulator: Simulator, any_db_url: str
) -> None:
    ledger = open_ledger(db=any_db_url, **STATELESS)
    simulator.answer({"output": [REASONING | {"summary": []}, "Hello."]})
    chat = ledger.conversation("k")
    chat.ask("Hello?")
    memory, state = chat.memory(), ledger.journal.require("k").state
    assert journaled(ledger)[-1].content == "Hello."
    assert memory.path_hash == state.path_hash == chat.memory(last=10).digest()
    chat.append("user", "Thanks.")
    earlier = ledger.memory("k", at=memory.version)
    assert earlier.digest() == memory.path_hash  # computed from the rows
    plain = ledger.conversation("plain")
    plain.extend([{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}])
    assert plain.memory().path_hash != memory.path_hash


def test_what_is_too_large_to_be_kept_is_a_loss_of_the_run(
    open_ledger: Callable[..., Any], simulator: Simulator
) -> None:
    ledger = open_ledger(**STATELESS)
    results = [{"file_id": f"file-{number}", "text": "y" * 4_000, "score": 0.5} for number in range(20)]
    search = {"type": "file_search_call", "queries": ["x"], "results": results}
    simulator.answer(
        {"output": [search, {"type": "web_search_call", "action": {"type": "search", "query": "x"}}, "Found."]}
    )
    answer = ledger.conversation("k").ask("Where?")
    assert answer.losses == {"native:file_search_call": 1}
    [completed] = [each for each in ledger.journal.history("k") if isinstance(each, events.RunCompleted)]
    assert completed.losses == answer.losses
    kinds = [each["type"] for each in journaled(ledger)[-1].native["items"]]
    assert kinds == ["unknown", "web_search_call", "message"]


def lines_of(ledger: Any, plain: bool) -> list[bytes]:
    from threadledger.adapters import export_lines

    return [line.encode() for line in export_lines(ledger, ["k"], plain=plain)]


@pytest.mark.parametrize("plain", [False, True], ids=["jsonl", "messages"])
def test_an_export_and_its_import_are_an_identity(
    open_ledger: Callable[..., Any], simulator: Simulator, plain: bool
) -> None:
    from threadledger.adapters import import_lines

    ledger = open_ledger(**STATELESS)
    simulator.answer({"output": EVERYTHING}, {"output": OUTPUTS["refusal"]}, {"output": OUTPUTS["citations"]})
    for _ in range(3):
        ledger.conversation("k").ask("Where?")
    lines = lines_of(ledger, plain)
    renamed = [line.replace(b'{"id": "k"', b'{"id": "copy"', 1) for line in lines]
    assert [each.state for each in import_lines(ledger, renamed)] == ["imported"]
    copy, original = ledger.memory("copy"), ledger.memory("k")
    assert [each.message for each in copy.messages] == [each.message for each in original.messages]
    assert copy.path_hash == original.path_hash
    assert [each.state for each in import_lines(ledger, renamed)] == ["unchanged"]


ODD_ITEMS: list[Any] = [
    5,
    {"dialect": "responses", "items": [7]},
    {"dialect": "responses", "items": [{"type": "reasoning", "text": {"threadledger_blob": 7, "encoding": "utf-8"}}]},
    {
        "dialect": "responses",
        "items": [{"type": "reasoning", "text": {"threadledger_blob": "BLOB", "encoding": "odd"}}],
    },
    {
        "dialect": "responses",
        "items": [{"type": "reasoning", "text": {"threadledger_blob": "BLOB", "encoding": "utf-8"}}],
    },
    {"dialect": "responses", "items": [{"type": "reasoning", "text": "\ud800"}]},
    {"dialect": "responses", "items": [{"type": "reasoning", "text": float("nan")}]},
    {"dialect": "responses", "items": [{"type": "reasoning", "text": "x" * 4_000}] * 100},
]
"""What no export writes: other shapes, references that are none, bytes that are no text, and more than is kept of a message."""


@pytest.mark.parametrize("odd", ODD_ITEMS)
def test_items_of_a_file_that_cannot_be_stored_are_counted_and_do_not_break_its_export(
    open_ledger: Callable[..., Any], odd: Any
) -> None:
    from threadledger.adapters import import_lines

    ledger = open_ledger(**STATELESS)
    address = ledger.attach(b"\x89PNG\r\n\x1a\n" + bytes(100))["image_url"]["blob"]
    given = {"role": "assistant", "content": "In Bern.", "threadledger_native": odd}
    line = json.dumps({"id": "k", "messages": [{"role": "user", "content": "Where?"}, given]})
    [imported] = import_lines(ledger, [line.replace("BLOB", address).encode()])
    is_kept = '"encoding": "utf-8"' in line and "BLOB" in line
    assert (imported.state, imported.left_out) == ("imported", {} if is_kept else {"odd_fields": 1})
    [exported] = lines_of(ledger, False)
    assert (b"threadledger_native" in exported) == is_kept
    assert ledger.memory("k").as_response_items()[-1]["content"] == "In Bern."


def test_a_fork_has_all_of_an_answer(open_ledger: Callable[..., Any], simulator: Simulator) -> None:
    ledger = open_ledger(**STATELESS)
    simulator.answer({"output": EVERYTHING})
    ledger.conversation("k").ask("Where?")
    ledger.fork("k", "copy")
    copy, original = ledger.memory("copy"), ledger.memory("k")
    assert [each.message for each in copy.messages] == [each.message for each in original.messages]
    assert [each.blobs for each in journaled(ledger, "copy")] == [each.blobs for each in journaled(ledger)]


def test_a_thread_that_is_rebuilt_says_what_it_does_not_hold(
    open_ledger: Callable[..., Any], simulator: Simulator
) -> None:
    ledger = open_ledger(**IN_CONVERSATION)
    simulator.answer({"output": EVERYTHING})
    ledger.conversation("k").ask("Where?")
    plan = ledger.replay.plan_rebuild(keys=["k"], to="conversations", fresh=True)
    [item] = plan.apply()
    assert (item.verified, dict(item.losses)) == (True, {"reasoning": 1, "hosted_calls": 1, "images": 1})
    [verified] = ledger.replay.verify(keys=["k"])
    assert verified.found.state == "same"


def test_the_next_run_of_an_exchange_is_sent_the_reasoning_from_the_journal(
    open_ledger: Callable[..., Any], simulator: Simulator, tmp_path: Any
) -> None:
    settings = STATELESS | {"retries": 1}
    ledger = open_ledger({"weather": lambda city: "sunny"}, profile=weather_profile(tmp_path), **settings)
    simulator.answer({"output": [REASONING, WEATHER]}, "Sunny.")
    simulator.add_fault("POST /responses", refuse={"status": 500}, after=1)
    assert ledger.conversation("k").ask("Weather?").text == "Sunny."
    items = sent_items(simulator)
    assert [each["type"] for each in items] == ["message", "reasoning", "function_call", "function_call_output"]
    assert items[1] == REASONING


def test_an_answer_with_citations_makes_later_questions_read_no_memory(
    open_ledger: Callable[..., Any], simulator: Simulator
) -> None:
    ledger = open_ledger(**IN_CONVERSATION)
    chat = ledger.conversation("k")
    simulator.answer({"output": OUTPUTS["web search"]}, {"output": OUTPUTS["image"]})
    chat.ask("Where?")
    state = ledger.journal.require("k").state
    assert isinstance(journaled(ledger)[-1].content, list)
    assert state.has_parts is False
    chat.ask("Draw it.")
    assert ledger.journal.require("k").state.has_parts is True


def test_both_messages_follow_their_question_and_not_what_others_wrote_meanwhile(
    open_ledger: Callable[..., Any], simulator: Simulator, tmp_path: Any
) -> None:
    def weather(city: str) -> str:
        ledger.conversation("k").append("user", "Never mind.")
        return "sunny"

    ledger = open_ledger({"weather": weather}, profile=weather_profile(tmp_path), **STATELESS)
    simulator.answer({"output": [WEATHER]}, {"output": OUTPUTS["two messages"]})
    assert ledger.conversation("k").ask("What time is it?").text == "It is 7."
    texts = [each.message.text for each in ledger.memory("k").messages]
    assert texts == ["What time is it?", "", "sunny", "I look.", "It is 7.", "Never mind."]


@HOW
def test_both_messages_of_a_response_are_journaled_before_its_calls(
    open_ledger: Callable[..., Any], simulator: Simulator, tmp_path: Any, streamed: bool
) -> None:
    ledger = open_ledger({"weather": lambda city: "sunny"}, profile=weather_profile(tmp_path), **IN_CONVERSATION)
    simulator.answer({"output": ["I look.", "Outside.", WEATHER]}, {"output": ["Sunny.", "Enjoy."]})
    answer, pieces = asked(ledger.conversation("k"), streamed)
    assert answer.text == "Enjoy."
    texts = [each.message.text for each in ledger.memory("k").messages]
    assert texts == ["Where?", "I look.", "Outside.", "sunny", "Sunny.", "Enjoy."]
    assert pieces in ([], ["I look.", "Outside.", "Sunny.", "Enjoy."])
    [verified] = ledger.replay.verify(keys=["k"])
    assert verified.found.state == "same"
