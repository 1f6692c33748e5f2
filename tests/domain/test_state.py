"""Snapshots of the state: the format of `STATE_SCHEMA` 1 is pinned to what the first releases wrote, byte by byte."""

import json
from functools import partial as fact
from pathlib import Path

import pytest

from threadledger.domain.conversation import ConversationState, OpenRun, ThreadLink, evolve
from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.state import OpenExchange

SNAPSHOTS = (Path(__file__).parents[1] / "golden" / "snapshots-4.jsonl").read_text("ascii").splitlines()
"""The snapshot after each event of the story, as the code of commit 59428e9 wrote it."""


def _asked(number, **more):
    return fact(e.MessageJournaled, message_id=f"m{number}", role="user", exchange_id=f"x{number}", **more)


def _runs(run_id, exchange_id, backend="chat", **more):
    named = {"backend": backend, "model": "gpt", "attempt": 1, "deadline": "2026-11-22T12:04:02.000152Z"}
    return fact(e.RunStarted, run_id=run_id, exchange_id=exchange_id, **named | more)


STORY = [
    fact(e.ConversationStarted, key="customer-42 é"),
    fact(e.ThreadLinked, backend="assistants", thread_id="thread_1", endpoint="https://api.openai.com/v1"),
    _asked(1),
    _runs("r1", "x1", "assistants"),
    fact(e.RunFailed, run_id="r1", status="failed", thread_id="thread_1"),
    fact(e.ThreadLost, backend="assistants", thread_id="thread_1", reason="provider_gone"),
    _runs("r2", "x1", attempt=2),
    fact(e.RunFailed, run_id="r2", status="interrupted"),
    fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r1", "r2"]),
    _runs("r3", "x1", rerun_of="r2", deadline=None),
    fact(e.RunCompleted, run_id="r3", goes_on=True),
    _runs("r4", "x1", rerun_of="r2"),
    fact(e.RunFailed, run_id="r4", status="failed"),
    fact(e.ExchangeAbandoned, exchange_id="x1", run_ids=["r4"]),
    fact(e.ThreadLinked, backend="conversations", thread_id="conv_1", endpoint="https://api.openai.com/v1"),
    fact(e.ThreadRebuilt, backend="assistants", thread_id="thread_2", endpoint="https://api.openai.com/v1"),
    fact(e.ThreadLost, backend="conversations", thread_id="conv_1"),
    _asked(2),
    _runs("r5", "x2"),
    fact(e.RunCompleted, run_id="r5"),
    fact(e.MessageJournaled, message_id="m3", role="assistant", exchange_id="x2", run_id="r5"),
    _runs("r6", "x2", rerun_of="r5", supersedes_run_id="r5"),
    fact(e.RunFailed, run_id="r6", status="failed"),
    _runs("r7", "x2", "assistants", rerun_of="r5", supersedes_run_id="r5"),
    _runs("s1", "x1", shadow=True, rerun_of="r2"),
    _runs("r8", "x0", rerun_of="r0"),
    fact(e.RunCompleted, run_id="r8", goes_on=True),
    fact(e.ExchangeAbandoned, exchange_id="x0"),
    _runs("r9", "x0", rerun_of="r0"),
    _asked(4),
    fact(e.ExchangeAbandoned, exchange_id="x4"),
    _runs("r10", "x4"),
    _runs("r11", "own"),
    _asked(5),
    fact(e.RerunAccepted, exchange_id="x2", run_id="r7", message_id="m3", superseded_message_id="m3"),
    fact(e.MessageRetracted, message_id="m3"),
]


def as_first_written(text):
    """A snapshot without the fields that were added since."""
    stored = json.loads(text)
    for name in ("described", "path_hash", "path_version", "has_parts", "end_version", "mark_version"):
        stored.pop(name, None)
    for exchange in (*stored["open_exchanges"].values(), *stored["abandoned"].values()):
        for name in ("tail", "tail_version"):
            exchange.pop(name, None)
    order = list(json.loads(SNAPSHOTS[0]))
    stored = {name: stored[name] for name in sorted(stored, key=order.index)}
    return json.dumps(stored, separators=(",", ":"))


def test_every_snapshot_of_the_story_is_byte_for_byte_what_the_first_releases_wrote(log):
    state, written = ConversationState(), []
    for event in log(*STORY):
        written.append(as_first_written(evolve(state, event).as_json()))
    assert written == SNAPSHOTS


@pytest.mark.parametrize("text", SNAPSHOTS)
def test_a_snapshot_is_written_as_it_was_read(text):
    assert ConversationState.from_json(text).as_json() == text


def test_events_go_on_from_any_snapshot(log):
    for event, before, after in zip(log(*STORY)[1:], SNAPSHOTS, SNAPSHOTS[1:], strict=False):
        assert as_first_written(evolve(ConversationState.from_json(before), event).as_json()) == after


def test_the_objects_of_the_state_are_typed():
    state = ConversationState.from_json(SNAPSHOTS[-1])
    assert state.open_runs["r7"] == OpenRun("x2", "assistants", 1, "2026-11-22T12:04:02.000152Z", "r5", "r5")
    assert state.open_exchanges["x4"] == OpenExchange(
        "m4", ["r10"], messages=4, active_at="2026-11-22T11:00:29.000000Z", unanswered=True
    )
    assert state.abandoned["x1"].rerun_of == "r2"
    assert state.links["conversations"] == ThreadLink("conv_1", "https://api.openai.com/v1", version=15, lost="gone")
    assert list(state.shadow_runs) == ["s1"]


def test_every_object_in_a_snapshot_has_only_fields_of_its_class():
    for state in map(ConversationState.from_json, SNAPSHOTS):
        for parts in (state.open_runs, state.open_exchanges, state.abandoned, state.shadow_runs, state.links):
            for part in parts.values():
                assert vars(part).keys() <= type(part).__dataclass_fields__.keys()


def test_a_field_that_a_snapshot_lacks_has_its_default_and_one_of_a_newer_version_is_kept():
    stored = json.loads(SNAPSHOTS[-1])
    del stored["shadow_runs"], stored["open_exchanges"]["x4"]["messages"], stored["links"]["assistants"]["version"]
    stored["open_exchanges"]["x4"]["invented_later"] = stored["links"]["assistants"]["kind"] = [1]
    state = ConversationState.from_json(json.dumps(stored))
    assert (state.shadow_runs, state.open_exchanges["x4"].messages, state.links["assistants"].version) == ({}, None, 0)
    assert json.loads(state.as_json()) == stored | {"shadow_runs": {}}


def test_a_part_of_the_state_is_frozen():
    run = ConversationState.from_json(SNAPSHOTS[-1]).open_runs["r7"]
    with pytest.raises(AttributeError):
        run.backend = "chat"
