"""The documents are made without the commands: another face gets what the commands print."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from threadledger.adapters.documents import event_in_words
from threadledger.domain.conversation import events as e

KEY = "customer-1"
RUN = "aaaa1111"

MAKE_ALL = """
import contextlib, json, sys
import threadledger
from threadledger.adapters import load_settings
from threadledger.adapters.doctor import doctor_document, examined
from threadledger.adapters.documents import *
from threadledger.domain.ledger import memory_shown

KEY, RUN = sys.argv[1:]
with threadledger.open(read_only=True) as ledger:
    run, exchanges = ledger.run(RUN)
    shown = run_document(ledger, run, exchanges)
    places = timeline_document(shown)
    made = {
        "list": [conversation_document(state) for state in ledger.conversations()],
        "show": shown_conversation_document(ledger, KEY),
        "show --view timeline": shown_conversation_document(ledger, KEY, view="timeline"),
        "audit show": shown | {"memory": memory_document(memory_shown(ledger.journal, run))},
        "doctor": doctor_document(examined(load_settings, lambda: contextlib.nullcontext(ledger), print)),
    }
commands = [name for name in sys.modules if name.split(".")[0] in {"click", "rich"} or "threadledger.cli" in name]
print(json.dumps({"made": made, "commands": commands, "places": places}))
"""


@pytest.fixture
def story(story_file: Path, db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(story_file, db_url.removeprefix("sqlite:///"))
    monkeypatch.setenv("THREADLEDGER_DB", db_url)


@pytest.mark.usefixtures("story")
def test_another_face_makes_what_the_commands_print(command: Callable[..., Any]) -> None:
    printed = {
        "list": command("list", "-o", "json").json,
        "show": command("show", KEY, "-o", "json").json,
        "show --view timeline": command("show", KEY, "--view", "timeline", "-o", "json").json,
        "audit show": command("audit", "show", RUN, "--memory", "-o", "json").json,
        "doctor": command("doctor", "-o", "json").json,
    }
    made = subprocess.run([sys.executable, "-c", MAKE_ALL, KEY, RUN], capture_output=True, text=True, check=True)
    face = json.loads(made.stdout)
    assert face["commands"] == []
    assert face["made"] == printed
    steps = [{name: value for name, value in each.items() if name in printed["audit show"]["exchange"][0]}
             for each in face["places"]]  # fmt: skip
    assert steps == printed["audit show"]["exchange"]
    assert [each["begin_seconds"] for each in face["places"]] == sorted(
        each["begin_seconds"] for each in face["places"]
    )
    assert all(each["lasted_seconds"] >= 0 and each["pause_seconds"] >= 0 for each in face["places"])


def test_an_answer_a_part_and_a_failure_to_answer_are_documents(
    open_ledger: Callable[..., Any], simulator: Any
) -> None:
    from threadledger.adapters.documents import answer_document, failed_answer_document, part_document
    from threadledger.domain.errors import AllBackendsFailed

    ledger = open_ledger(backends=("chat",), threads="none", retries=0)
    *parts, answer = ledger.conversation("k").stream("Where is it?")
    documents = [part_document(part) for part in (*parts, answer)]
    assert json.loads(json.dumps(documents)) == documents
    assert {each["type"] for each in documents[:-1]} == {"delta"}
    assert documents[-1] == answer_document(answer) | {"type": "answer"}
    simulator.add_fault("POST /chat/completions", refuse={"status": 500})
    with pytest.raises(AllBackendsFailed) as failed:
        ledger.conversation("k").ask("And the other one?")
    document = failed_answer_document(failed.value)
    assert document.keys() == answer_document(answer).keys()
    assert document["answer"] is None
    assert [each["run_id"] for each in document["failures"]] == [each.run_id for each in failed.value.failures]


OF_OTHER_STREAMS = ("Profile", "Attachment", "Job", "FailureGroup", "Assistant", "ApiKey", "File", "VectorStore")
"""Beginnings of the names of events that no conversation has."""


def sample(event_class: type[e.Event]) -> e.Event:
    """An event whose required fields are filled, and the optional ones of text too."""
    values: dict[str, Any] = {"str": "0123456789ab", "int": 3, "float": -1.0, "bool": True}
    filled = {}
    for each in msgspec.structs.fields(event_class):
        kind = str(event_class.__annotations__.get(each.name, "")).removeprefix("<class '").removesuffix("'>")
        value = values.get(kind.removesuffix(" | None"), each.default)
        if each.required or kind.removesuffix(" | None") in values:
            filled[each.name] = value
    return event_class(**filled)


@pytest.mark.parametrize("name", [name for name in e.EVENTS if not name.startswith(OF_OTHER_STREAMS)])
def test_a_timeline_says_each_event_of_a_conversation_in_words(name: str) -> None:
    event = sample(e.EVENTS[name])
    for data in (e.fields_of(event), e.fields_of(msgspec.structs.replace(event, actor="anna"))):
        words = event_in_words(name, data)
        assert words
        raw = [field for field in data if "_" in field and re.search(rf"\b{field}\b", words)]
        assert raw == []


def test_what_was_asked_for_retracted_and_given_up_is_a_sentence() -> None:
    def words(event: e.Event) -> str:
        return event_in_words(type(event).__name__, e.fields_of(event))

    assert words(e.MessageRetracted(message_id="019acfdd180c", reason="why")) == "cfdd180c retracted: why"
    again = e.ExchangeRequested(exchange_id="x", question_message_id="01928ef6e117", question_version=2)
    assert words(again) == "runs the question 8ef6e117 again"
    assert words(msgspec.structs.replace(again, model="m")) == "runs the question 8ef6e117 again with model m"
    chosen = e.ExchangeRequested(exchange_id="x", backend="chat", timeout_seconds=5.0, metadata={"desk": "7"})
    assert words(chosen) == "requested with backend chat, a limit of 5 s, metadata desk"
    abandoned = e.ExchangeAbandoned(exchange_id="x", reason="a newer question took its place")
    assert words(abandoned) == "abandoned: a newer question took its place"
    assert words(e.ConversationStarted(key="k")) == "the conversation starts"
    described = e.ConversationDescribed(title="Parcel", owner="", tags=["a", "b"], archived=False)
    assert words(described) == "title Parcel; no owner; tags a, b; no longer archived"
    pasted = e.MessageJournaled(message_id="m", role="user", content=[{"type": "text", "text": "Where?"}])
    assert words(pasted) == "user: Where?"
    placed = e.RerunAccepted(exchange_id="x", run_id="r2", message_id="m", behind_message_id="q")
    assert words(placed) == "the answer of run r2 follows q"
    assert words(e.BranchSelected(message_id="", message_version=0)) == "memory ends before the first message"
