"""Test rebuild: threads are rewritten completely, even if requests fail or the process is killed."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import threadledger
from threadledger.adapters import Simulator, import_lines
from threadledger.domain.conversation import events
from threadledger.domain.errors import ConversationNotFound, FileMissing, InvalidInput
from threadledger.domain.threads import ThreadState

from .rebuilding import Rebuilder

SOAK = "THREADLEDGER_SOAK" in os.environ
KINDS = ("conversations", "assistants")
REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "conversations.jsonl.gz"

ITEMS = "POST /conversations/{conversation_id}/items"
MESSAGES = "POST /threads/{thread_id}/messages"
WRITES = {"conversations": ITEMS, "assistants": MESSAGES}
CREATES = {"conversations": "POST /conversations", "assistants": "POST /threads"}
READS = {
    "conversations": "GET /conversations/{conversation_id}/items",
    "assistants": "GET /threads/{thread_id}/messages",
}

WEATHER_TALK = [
    {"role": "user", "content": "Is it sunny in Bern?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "assistant", "content": "It is."},
]


@pytest.fixture
def journaled(open_ledger):
    """Create a ledger whose conversations have no threads yet, and mirror it to one kind of thread from then on."""

    def make(kind, **conversations):
        with open_ledger(openai_api_key=None) as silent:
            for key, messages in conversations.items():
                silent.conversation(key).extend(messages)
        return open_ledger(threads=kind)

    return make


def said(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]


def states_of(ledger, kind, keys=None):
    return {found.found.state for found in ledger.replay.verify(keys, kind)}


def in_thread(simulator, thread_id):
    """Return the texts in a thread of either kind, in order."""
    if thread_id in simulator.provider.items:
        return [item.get("content", item.get("output")) for item in simulator.provider.items[thread_id]]
    return simulator.provider.messages[thread_id]


# The plan


def test_a_plan_writes_nothing_and_says_what_would_be_written_and_how_many_requests_that_takes(journaled, simulator):
    ledger = journaled("conversations", k=said(*[f"text {n}" for n in range(45)]))
    (item,) = ledger.replay.plan_rebuild(["k"]).items
    assert (item.state, item.messages, item.requests) == ("planned", 45, 1 + 3 + 1)
    assert simulator.requests == []
    before = len(simulator.requests)
    ledger.replay.plan_rebuild(["k"]).apply()
    assert len(simulator.requests) - before == item.requests


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_linked_thread_the_plan_counts_one_more_reading(journaled, simulator, kind):
    ledger = journaled(kind, k=said("a", "b"))
    ledger.replay.plan_rebuild(["k"]).apply()
    (item,) = ledger.replay.plan_rebuild(["k"], fresh=True).items
    assert item.old_thread_id is not None
    assert item.requests == (1 + (1 if kind == "conversations" else 2) + 2)


def test_a_conversation_without_messages_is_skipped_in_the_plan_already(journaled):
    ledger = journaled("conversations", k=said("gone"))
    ledger.journal.commit("k", lambda conversation: conversation.clear_memory())
    (item,) = ledger.replay.plan_rebuild(["k"]).items
    assert (item.state, item.reason, item.requests) == ("skipped", "nothing to write", 0)


def test_the_conversations_of_a_search_are_rebuilt(journaled):
    ledger = journaled("conversations", a=said("my parcel is late"), b=said("good morning"))
    assert [item.key for item in ledger.replay.plan_rebuild(search="parcel").apply()] == ["a"]


def test_an_unknown_conversation_or_kind_is_refused_when_it_is_planned(journaled):
    ledger = journaled("conversations", a=said("hello"))
    with pytest.raises(ConversationNotFound):
        ledger.replay.plan_rebuild(["nobody"])
    with pytest.raises(InvalidInput, match="no threads of kind 'tapes'"):
        ledger.replay.plan_rebuild(to="tapes")


def test_a_conversation_that_moved_on_since_the_plan_is_skipped_as_changed(journaled, simulator):
    ledger = journaled("conversations", a=said("hello"), b=said("hello"))
    plan = ledger.replay.plan_rebuild()
    ledger.journal.commit("a", lambda it: it.clear_memory())
    assert [(item.key, item.state, item.reason) for item in plan.apply()] == [
        ("a", "skipped", "changed since the plan: plan again"),
        ("b", "done", ""),
    ]


def test_as_of_a_version_what_comes_later_changes_nothing(journaled):
    ledger = journaled("conversations", a=said("one", "two", "three"))
    plan = ledger.replay.plan_rebuild(["a"], at=3)
    ledger.journal.commit("a", lambda it: it.clear_memory())
    assert [(item.state, item.messages) for item in plan.apply()] == [("done", 2)]


# What a thread can hold


def test_a_conversation_carries_roles_calls_results_and_images_by_reference_and_counts_nothing_as_lost(
    journaled, simulator
):
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
        *WEATHER_TALK[1:],
    ]
    ledger = journaled("conversations", k=talk)
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert (item.state, dict(item.losses)) == ("done", {})
    held = simulator.provider.items[item.thread_id]
    assert [each.get("role", each["type"]) for each in held] == [
        *("system", "user", "function_call", "function_call_output", "assistant")
    ]
    assert held[1]["content"][1]["image_url"] == "https://example.org/a.png"


def test_what_a_conversation_has_no_place_for_is_counted_by_kind_and_recorded(journaled):
    talk = [
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "…", "format": "wav"}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I hear."}, {"type": "refusal", "refusal": "no"}]},
        {"role": "user", "name": "eva", "content": "hm"},
    ]
    ledger = journaled("conversations", k=talk)
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert dict(item.losses) == {"other_parts": 2, "extra_fields": 1}
    (rebuilt,) = [each.event for each in ledger.events(types=["ThreadRebuilt"])]
    assert rebuilt.losses == {"other_parts": 2, "extra_fields": 1}


def test_an_assistants_thread_gets_tool_exchanges_as_text_that_says_so_and_the_time_of_writing(journaled, simulator):
    ledger = journaled("assistants", k=WEATHER_TALK)
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert dict(item.losses) == {"tool_calls_as_text": 1, "tool_results_as_text": 1}
    held = simulator.provider.messages[item.thread_id]
    texts = [message["content"][0]["text"]["value"] for message in held]
    assert texts == ["Is it sunny in Bern?", '[tool call weather {"city":"Bern"}]', "[tool result sunny]", "It is."]
    assert held[0]["metadata"]["threadledger_written_at"].startswith("20")


def test_an_imported_message_keeps_the_time_it_was_written_at(open_ledger, simulator):
    line = {"id": "k", "messages": [
        {"role": "user", "content": "hi", "at": "2020-02-02T02:02:02Z", "message_id": "m", "source": "app",
         "exchange_id": None, "run_id": None},
    ]}  # fmt: skip
    ledger = open_ledger(threads="assistants")
    list(import_lines(ledger, [json.dumps(line).encode()]))
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    (message,) = simulator.provider.messages[item.thread_id]
    assert message["metadata"]["threadledger_written_at"] == "2020-02-02T02:02:02Z"


# Verified before it is linked


def test_a_thread_that_reads_back_otherwise_is_not_linked_and_the_next_attempt_begins_anew(journaled, simulator):
    ledger = journaled("conversations", k=said("one", "two"))
    mirror = ledger.services.mirrors["conversations"]
    read, shortened = mirror.read, []

    def read_less(thread_id):
        found = yield from read(thread_id)
        if not shortened:
            shortened.append(thread_id)
            return found[:-1]
        return found

    mirror.read = read_less
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert (item.state, item.verified) == ("failed", False)
    assert item.reason == "read back: 1 missing, 0 extra, 0 different; not linked"
    assert ledger.state("k").links == {}
    (again,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert again.state == "done"
    assert again.thread_id != shortened[0]


def test_where_somebody_else_links_a_thread_meanwhile_that_one_stays(journaled):
    ledger = journaled("conversations", k=said("one"))
    mirror = ledger.services.mirrors["conversations"]
    create = mirror.create

    def create_while_others_link(key):
        made = yield from create(key)
        ledger.journal.commit("k", lambda it: it.link_thread("conversations", "conv_theirs", mirror.endpoint))
        return made

    mirror.create = create_while_others_link
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert (item.state, item.reason) == ("skipped", "another thread was linked in the meantime: plan again")
    assert ledger.state("k").links["conversations"].thread_id == "conv_theirs"


@pytest.mark.parametrize("late", range(1, 8))
@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_lands_late_is_taken_out_before_the_thread_is_linked_or_noted_as_a_doubt(
    journaled, simulator, kind, late
):
    ledger = journaled(kind, k=said("one", "two", "three"))
    simulator.add_fault(WRITES[kind], land_late=late)
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert (item.state, item.verified) == ("done", True)
    for text in ("four", "five"):
        ledger.conversation("k").append("user", text)
    assert states_of(ledger, kind) == {ThreadState.SAME}


# Lost requests and responses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["create", "first write", "second write", "read"])
@pytest.mark.parametrize(
    "fault",
    [
        {"lose_answer": True},
        {"drop": True},
        {"refuse": {"status": 500}},
        {"refuse": {"status": 429, "code": "rate_limit_exceeded", "headers": {"retry-after": "1"}}},
    ],
    ids=["lost after", "dropped before", "500", "429"],
)
def test_one_request_goes_wrong_and_the_thread_is_whole(journaled, simulator, kind, where, fault):
    ledger = journaled(kind, k=said(*[f"text {n}" for n in range(25)]))
    route = {"create": CREATES[kind], "read": READS[kind]}.get(where, WRITES[kind])
    simulator.add_fault(route, after=1 if where == "second write" else 0, **fault)
    (item,) = ledger.replay.plan_rebuild(["k"]).apply()
    assert (item.state, item.verified) == ("done", True)
    assert states_of(ledger, kind) == {ThreadState.SAME}
    assert [item.state for item in ledger.replay.plan_rebuild(["k"]).apply()] == ["skipped"]


def test_a_provider_that_refuses_for_good_fails_the_item_and_names_the_cause(journaled, simulator):
    ledger = journaled("conversations", a=said("one"), b=said("two"))
    simulator.add_fault(ITEMS, refuse={"status": 401, "code": "invalid_api_key"})
    items = ledger.replay.plan_rebuild().apply()
    assert [item.state for item in items] == ["failed", "done"]
    assert items[0].reason.startswith("authentication")
    assert ledger.replay.jobs()[0].failed == 1


# Killed processes


@pytest.fixture(scope="module")
def rebuilder() -> Iterator[Rebuilder]:
    rebuilder = Rebuilder()
    yield rebuilder
    rebuilder.close()


DRAWS = 40 if SOAK else 2
TEXTS = {"conversations": 23, "assistants": 6}
"""Number of texts for each kind of thread, so that writing them takes several requests."""


@pytest.fixture(scope="module")
def points() -> dict[str, int]:
    """Provide a cache for the number of points at which a rebuild of each kind can be killed; they are counted once."""
    return {}


@pytest.mark.crash
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", range(DRAWS))
def test_killed_at_any_point_a_rebuild_is_gone_on_with_and_nothing_is_lost_or_doubled(
    journaled, simulator, rebuilder, points, db_url, kind, draw
):
    ledger = journaled(kind, a=said(*[f"text {n}" for n in range(TEXTS[kind])]), b=WEATHER_TALK)
    if kind not in points:
        points[kind] = rebuilder.rebuild(db_url, simulator.base_url, kind)["effects"]
    fresh = draw % 3 == 0 and bool(ledger.state("a").links)
    killed_at = 1 + Random(f"rebuild {kind} {draw}").randrange(points[kind])
    made_before = len(simulator.provider.items) + len(simulator.provider.threads)
    for key in ("a", "b"):
        if ledger.state(key).links and not fresh:
            simulator.lose(ledger.state(key).links[kind].thread_id)
            made_before -= 1
    killed = rebuilder.rebuild(db_url, simulator.base_url, kind, killed_at=killed_at, fresh=fresh)
    assert killed["status"] == -9
    assert rebuilder.rebuild(db_url, simulator.base_url, kind)["status"] == 0
    assert states_of(ledger, kind) == {ThreadState.SAME}
    made = len(simulator.provider.items) + len(simulator.provider.threads) - made_before
    assert 2 <= made <= 3  # an empty thread may remain whose creation was never acknowledged
    job = ledger.replay.jobs()[0]
    assert (job.state, job.failed, job.left) == ("done", 0, 0)


def test_a_thread_that_was_half_written_is_gone_on_with_and_no_other_is_made(journaled, simulator, kind="assistants"):
    ledger = journaled(kind, k=said(*[f"text {n}" for n in range(9)]))
    simulator.add_fault(MESSAGES, after=4, times=None, refuse={"status": 401, "code": "invalid_api_key"})
    plan = ledger.replay.plan_rebuild(["k"])
    assert [item.state for item in plan.apply()] == ["failed"]
    simulator.clear_faults()
    (item,) = plan.resume()
    assert (item.state, item.sent) == ("done", 5)
    assert len(simulator.provider.threads) == 1


def test_with_fresh_a_rebuild_that_was_killed_after_it_linked_makes_no_second_thread(journaled, simulator):
    ledger = journaled("conversations", k=said("one"))
    plan = ledger.replay.plan_rebuild(["k"], fresh=True)
    pin = next(iter(plan.pins()))
    from threadledger.domain.effects import perform

    first = perform(plan.step(pin), lambda _: None)
    again = perform(plan.step(pin), lambda _: None)
    assert (first.state, again.state) == ("done", "done")
    assert first.thread_id == again.thread_id
    assert len(simulator.provider.items) == 1


# At scale


def real_lines(number, seed=5):
    with gzip.open(REAL, "rb") as file:
        lines = file.readlines()
    return lines if number is None else Random(seed).sample(lines, number)


WHOLE = SOAK or "THREADLEDGER_WHOLE_REBUILD" in os.environ
"""Whether all real conversations are rebuilt, which takes some minutes."""

KILLS = 20 if WHOLE else 3


REACH = {"conversations": 4_000, "assistants": 12_000}
"""Maximum kill point in a rebuild of all real conversations, so that 20 kills are spread over most of the work."""


@pytest.mark.crash
@pytest.mark.skipif(not REAL.exists(), reason="there is no large export to import: the test's own data proves the same")
@pytest.mark.parametrize("kind", KINDS)
def test_real_conversations_are_rebuilt_while_answers_are_lost_limits_hit_and_the_process_is_killed(
    rebuilder, tmp_path, kind
):
    db_url = f"sqlite:///{tmp_path / 'ledger.db'}"
    number = None if WHOLE else 40 if kind == "conversations" else 12
    with threadledger.open(db_url, openai_api_key=None) as ledger:
        assert all(each.state == "imported" for each in import_lines(ledger, real_lines(number)))
    with Simulator(seed=11) as simulator:
        simulator.add_fault("*", lose_answer=True, probability=0.05, times=None)
        simulator.add_fault("*", refuse={"status": 429, "code": "rate_limit_exceeded"}, probability=0.05, times=None)
        simulator.add_fault("*", refuse={"status": 500}, probability=0.02, times=None)
        random, killed, reach = Random(f"scale {kind}"), 0, REACH[kind] if WHOLE else 60
        while killed < KILLS:
            at = 1 + random.randrange(reach)
            killed += rebuilder.rebuild(db_url, simulator.base_url, kind, killed_at=at, concurrency=2)["status"] == -9
        while rebuilder.rebuild(db_url, simulator.base_url, kind, concurrency=4)["status"]:
            pass
        simulator.clear_faults()
        asked = [request.template for request in simulator.requests]
        assert not any(
            template in {"POST /responses", "POST /chat/completions"} or template.endswith("/runs")
            for template in asked
        )
        with threadledger.open(db_url, openai_api_key="k", openai_base_url=simulator.base_url, threads=kind) as ledger:
            assert states_of(ledger, kind) == {ThreadState.SAME}
            written = {
                path: len(held) for path, held in (simulator.provider.items or simulator.provider.messages).items()
            }
            again = ledger.replay.plan_rebuild()
            assert {item.state for item in again.apply(concurrency=4)} == {"skipped"}
            assert written == {
                path: len(held) for path, held in (simulator.provider.items or simulator.provider.messages).items()
            }


# Several processes, async, and into a file


@pytest.mark.parametrize("kind", KINDS)
def test_many_are_rebuilt_at_once_by_several_workers(journaled, kind):
    ledger = journaled(kind, **{f"k{n}": said(f"question {n}", f"answer {n}") for n in range(12)})
    items = ledger.replay.plan_rebuild().apply(concurrency=4)
    assert [item.key for item in items] == sorted(f"k{n}" for n in range(12))
    assert {item.state for item in items} == {"done"}
    assert states_of(ledger, kind) == {ThreadState.SAME}


def test_the_same_is_awaited(journaled, db_url, simulator):
    journaled("conversations", **{f"k{n}": said(f"question {n}") for n in range(6)})

    async def story():
        settings = {"openai_api_key": "k", "openai_base_url": simulator.base_url, "threads": "conversations"}
        async with threadledger.open_async(db_url, **settings) as ledger:
            heard = []
            plan = await ledger.replay.plan_rebuild()
            items = await plan.apply(progress=heard.append, concurrency=3)
            (job,) = await ledger.replay.jobs()
            return items, heard, job, {found.found.state for found in await ledger.replay.verify()}

    items, heard, job, states = asyncio.run(story())
    assert {item.state for item in items} == {"done"}
    assert len(heard) == 6
    assert (job.state, job.done) == ("done", 6)
    assert states == {ThreadState.SAME}


def test_memory_is_rebuilt_into_a_file_that_import_reads(journaled, open_ledger, tmp_path, simulator):
    ledger = journaled("conversations", a=WEATHER_TALK, b=said("hello"))
    path = tmp_path / "memory.jsonl"
    plan = ledger.replay.plan_rebuild_file(path)
    assert [item.messages for item in plan.items] == [4, 1]
    assert not path.exists()
    items = plan.apply()
    assert [(item.key, item.state, item.verified, item.sent) for item in items] == [
        ("a", "done", True, 4),
        ("b", "done", True, 1),
    ]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"id": "a", "messages": WEATHER_TALK}, {"id": "b", "messages": said("hello")}]
    with threadledger.open(f"sqlite:///{tmp_path / 'other.db'}", openai_api_key=None) as other:
        list(import_lines(other, path.read_bytes().splitlines()))
        assert other.memory("a").digest() == ledger.memory("a").digest()
    assert simulator.requests == []


def test_a_file_as_of_a_version_holds_the_memory_of_then(journaled, tmp_path):
    ledger = journaled("conversations", a=said("one", "two", "three"))
    ledger.replay.plan_rebuild_file(tmp_path / "m.jsonl", ["a"], at=3).apply()
    assert json.loads((tmp_path / "m.jsonl").read_text())["messages"] == said("one", "two")


def test_the_file_that_was_there_stays_until_the_new_one_is_whole(journaled, tmp_path):
    ledger = journaled("conversations", a=said("one"), b=said("two"))
    path = tmp_path / "m.jsonl"
    path.write_text("the old one")
    items = ledger.replay.plan_rebuild_file(path).each(stop=lambda: path.with_name("m.jsonl.part").exists())
    assert list(items) == []
    assert path.read_text() == "the old one"
    assert list(tmp_path.glob("*.part")) == []


def test_a_file_that_cannot_be_written_is_told_in_one_sentence(journaled, tmp_path):
    ledger = journaled("conversations", a=said("one"))
    with pytest.raises(FileMissing, match="cannot be written"):
        ledger.replay.plan_rebuild_file(tmp_path / "nowhere" / "m.jsonl").apply()


def test_the_thread_events_of_a_rebuild_are_the_only_ones_it_writes_to_a_conversation(journaled):
    ledger = journaled("conversations", a=said("one"))
    before = ledger.state("a").version
    ledger.replay.plan_rebuild().apply()
    assert [type(event) for event in ledger.journal.history("a", after=before)] == [events.ThreadRebuilt]
