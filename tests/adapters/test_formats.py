"""Import and export: what went in comes out, twice is once, and a bad line costs nobody else anything."""

import gzip
import json
import os
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from threadledger.adapters import export_lines, import_lines
from threadledger.domain.conversation import parse_message
from threadledger.domain.errors import ConversationNotFound, InvalidInput

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "conversations.jsonl.gz"
REAL_LINES = 3_000 if "THREADLEDGER_SOAK" in os.environ else 300

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "1"}'}}
OWN = [
    {"id": "plain", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    {"id": "metadata", "services": ["a", {"b": None}], "n": 1.5, "messages": [{"role": "system", "content": "x"}]},
    {"id": "tools", "messages": [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "[1]"},
        {"role": "assistant", "content": "done"}]},
    {"id": "parts", "messages": [{"role": "user", "content": [
        {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "http://x/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "…"}}]}]},
    {"id": "text \n 語 🙂", "messages": [{"role": "user", "content": "naïve\u0000\u2028\"\\ 👩‍👩‍👧"}]},
    {"id": "twins", "messages": [{"role": "user", "content": "again"}, {"role": "user", "content": "again"}]},
    {"id": "nobody spoke", "messages": []},
    {"id": "k" * 200, "messages": [{"role": "developer", "content": "", "name": "d"}]},
]  # fmt: skip


def as_lines(conversations):
    return [json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in conversations]


def imported(ledger, lines):
    return [(each.line, each.state, each.messages) for each in import_lines(ledger, lines)]


def exported(ledger, keys=None):
    return [line.encode() + b"\n" for line in export_lines(ledger, keys, plain=True)]


def states(ledger, lines):
    return {each.line: each.state for each in import_lines(ledger, lines)}


def end(ledger):
    return max((logged.position for logged in ledger.events()), default=0)


def real_lines():
    if not REAL.is_file():
        pytest.skip("there is no large export to import (conversations.jsonl.gz): the test's own data proves the same")
    with gzip.open(REAL, "rb") as lines:
        return [line for line, _ in zip(lines, range(REAL_LINES), strict=False)]


@pytest.mark.parametrize("lines", [lambda: as_lines(OWN), real_lines], ids=["own data", "real data"])
def test_what_is_imported_is_exported_byte_for_byte(open_store, lines):
    given = lines()
    ledger = open_store()
    assert {each.state for each in import_lines(ledger, given)} == {"imported"}
    assert exported(open_store()) == given


@pytest.mark.parametrize("lines", [lambda: as_lines(OWN), real_lines], ids=["own data", "real data"])
def test_the_same_file_twice_changes_nothing(open_store, lines):
    given = lines()
    ledger = open_store()
    list(import_lines(ledger, given))
    before = end(ledger)
    assert {each.state for each in import_lines(ledger, given)} == {"unchanged"}
    assert end(ledger) == before
    assert exported(ledger) == given


def test_the_full_export_can_be_imported_elsewhere_and_is_the_same_conversation(open_store, tmp_path):
    from threadledger.adapters.sql import Database, Factory
    from threadledger.domain.journal import Journal
    from threadledger.domain.ledger import Ledger

    ledger = open_store()
    list(import_lines(ledger, as_lines(OWN)))
    lines = [line.encode() for line in export_lines(ledger)]
    assert '"message_id"' in lines[0].decode()
    with Ledger(Journal(Factory(database=Database(f"sqlite:///{tmp_path / 'other.db'}")))) as other:
        assert {each.state for each in import_lines(other, lines)} == {"imported"}
        assert exported(other) == as_lines(OWN)


def test_a_line_that_has_grown_adds_its_end(open_store):
    ledger = open_store()
    grown = OWN[0] | {"messages": [*OWN[0]["messages"], {"role": "user", "content": "hi"}]}
    list(import_lines(ledger, as_lines([OWN[0]])))
    assert imported(ledger, as_lines([grown])) == [(1, "extended", 1)]
    assert exported(ledger) == as_lines([grown])


def test_a_line_that_has_shrunk_takes_nothing_away(open_store):
    ledger = open_store()
    list(import_lines(ledger, as_lines([OWN[0]])))
    assert states(ledger, as_lines([OWN[0] | {"messages": OWN[0]["messages"][:1]}])) == {1: "unchanged"}
    assert exported(ledger) == as_lines([OWN[0]])


def test_a_line_that_has_changed_is_refused_and_nothing_of_it_is_kept(open_store):
    ledger = open_store()
    list(import_lines(ledger, as_lines([OWN[0], OWN[5]])))
    changed = OWN[0] | {"messages": [{"role": "user", "content": "HI"}, *OWN[0]["messages"]]}
    found = list(import_lines(ledger, as_lines([changed, OWN[5]])))
    assert [each.state for each in found] == ["failed", "unchanged"]
    assert "message 1 of 'plain' differs" in found[0].reason
    assert exported(ledger) == as_lines([OWN[0], OWN[5]])


def test_the_same_conversation_twice_in_one_file_is_one_conversation(open_store):
    ledger = open_store()
    grown = OWN[0] | {"messages": [*OWN[0]["messages"], {"role": "user", "content": "more"}]}
    assert states(ledger, as_lines([OWN[0], OWN[1], grown, OWN[0]])) == {
        1: "imported",
        2: "imported",
        3: "extended",
        4: "unchanged",
    }
    assert exported(ledger) == as_lines([grown, OWN[1]])


def test_what_the_app_said_before_and_after_an_import_stays(open_store):
    ledger = open_store()
    ledger.conversation("plain").append("user", "before")
    assert states(ledger, as_lines([OWN[0]])) == {1: "extended"}
    ledger.conversation("plain").append("user", "after")
    assert states(ledger, as_lines([OWN[0]])) == {1: "unchanged"}
    assert [each.message.text for each in ledger.memory("plain").messages] == ["before", "hi", "hello", "after"]


SURROGATE = rb'"half \ud83d a face"'
BAD = {
    "not UTF-8": (b'{"id": "x", "messages": [{"role": "user", "content": "\xff"}]}', "UTF-8"),
    "not JSON": (b'{"id": "x", "messages": [', "not JSON"),
    "nested too deep": (b"[" * 100_000, "not JSON"),
    "a list": (b"[]", "messages"),
    "a number": (b"1", "messages"),
    "no messages": (b'{"id": "x"}', "messages"),
    "messages of another type": (b'{"id": "x", "messages": {}}', "messages"),
    "a message that is text": (b'{"id": "x", "messages": ["hi"]}', "message 1"),
    "an unknown role": (b'{"id": "x", "messages": [{"role": "robot", "content": "hi"}]}', "'robot'"),
}


REPAIRED = {
    "no id": (b'{"messages": []}', "lines:1", {"made_keys": 1}),
    "an id that is a number": (b'{"id": 7, "messages": []}', "7", {}),
    "an empty id": (b'{"id": "", "messages": []}', "lines:1", {"made_keys": 1}),
    "201 characters of id": (b'{"id": "' + b"k" * 201 + b'", "messages": []}', "lines:1", {"made_keys": 1}),
    "NUL in the id": (b'{"id": "a\\u0000b", "messages": []}', "lines:1", {"made_keys": 1}),
    "half a character in the id": (b'{"id": ' + SURROGATE + b', "messages": []}', "lines:1",
                                   {"made_keys": 1, "half_characters": 1}),
    "NaN in the metadata": (b'{"id": "x", "n": NaN, "messages": []}', "x", {"metadata_fields": 1}),
    "half a character in the metadata": (b'{"id": "x", "n": ' + SURROGATE + b', "messages": []}', "x",
                                         {"half_characters": 1}),
    "too much metadata": (b'{"id": "x", "n": "' + b"x" * 2**20 + b'", "messages": []}', "x", {"metadata_fields": 1}),
}  # fmt: skip


@pytest.mark.parametrize(("line", "key", "counted"), REPAIRED.values(), ids=REPAIRED)
def test_a_bad_id_or_metadata_does_not_cost_the_conversation(open_store, line, key, counted):
    ledger = open_store()
    (outcome,) = import_lines(ledger, [line])
    assert (outcome.state, outcome.key, outcome.left_out) == ("imported", key, counted)
    before = end(ledger)
    assert states(ledger, [line]) == {1: "unchanged"}
    assert end(ledger) == before


@pytest.mark.usefixtures("no_finalizers")
@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD)
def test_a_bad_line_is_reported_with_its_number_and_the_good_ones_are_kept(open_store, line, said):
    ledger = open_store()
    good = as_lines(OWN)
    found = list(import_lines(ledger, [*good[:3], line + b"\n", *good[3:]]))
    assert [(each.line, each.state) for each in found if each.state != "imported"] == [(4, "failed")]
    (bad,) = [each for each in found if each.line == 4]
    assert said in bad.reason
    assert "\n" not in bad.reason
    assert sorted(each.line for each in found) == list(range(1, len(OWN) + 2))
    assert exported(ledger) == good


def test_empty_lines_are_passed_over_and_counted(open_store):
    assert states(open_store(), [b"\n", as_lines(OWN)[0], b"  \n", b"{\n"]) == {2: "imported", 4: "failed"}


@pytest.mark.parametrize("count", [49, 50, 51, 120])
def test_more_conversations_than_one_transaction_takes_are_all_imported_in_order(open_store, count):
    lines = as_lines({"id": f"c{i}", "messages": [{"role": "user", "content": str(i)}]} for i in range(count))
    ledger = open_store()
    assert [each.line for each in import_lines(ledger, lines)] == list(range(1, count + 1))
    assert exported(ledger) == lines


def test_an_import_that_meets_another_one_half_way_imports_everything_once(open_store):
    mine, theirs = open_store(), open_store()
    lines = as_lines(OWN)

    def while_i_read():
        yield from lines[:4]
        list(import_lines(theirs, lines[:4]))
        yield from lines[4:]

    found = list(import_lines(mine, while_i_read()))
    assert sorted(each.line for each in found) == list(range(1, len(OWN) + 1))
    assert all(each.state != "failed" for each in found)
    assert sorted(exported(mine)) == sorted(lines)


def test_an_import_that_meets_other_content_half_way_fails_that_line_alone(open_store):
    mine, theirs = open_store(), open_store()
    lines = as_lines(OWN)
    other = as_lines([OWN[1] | {"messages": [{"role": "user", "content": "other"}]}])

    def while_i_read():
        yield from lines[:4]
        list(import_lines(theirs, other))
        yield from lines[4:]

    found = {each.line: each.state for each in import_lines(mine, while_i_read())}
    assert found.pop(2) == "failed"
    assert "failed" not in found.values()
    assert len(found) == len(OWN) - 1


def test_exporting_a_conversation_that_is_not_there_is_refused(open_store):
    with pytest.raises(ConversationNotFound, match="'nobody'"):
        list(export_lines(open_store(), ["nobody"]))


def test_only_the_conversations_that_were_named_are_exported_in_that_order(open_store):
    ledger = open_store()
    list(import_lines(ledger, as_lines(OWN)))
    assert exported(ledger, ["tools", "plain"]) == as_lines([OWN[2], OWN[0]])


def test_an_answer_of_a_run_is_exported_with_its_place(open_ledger):
    ledger = open_ledger(backends=("chat",), threads="none")
    answer = ledger.conversation("k").ask("hello")
    (line,) = export_lines(ledger)
    last = json.loads(line)["messages"][-1]
    assert (last["content"], last["run_id"], last["source"]) == (answer.text, answer.run_id, "run")


NAMES = st.sampled_from(["role", "content", "name", "tool_call_id", "tool_calls", "refusal", "message_id", "at", "source",
                         "exchange_id", "run_id", "id", "type", "text", "threadledger_place", "own", "image_url"])  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text()})
    | st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.dictionaries(NAMES, ANYTHING, max_size=2)})
    | st.dictionaries(NAMES, ANYTHING, max_size=3),
    min_size=1,
    max_size=3,
)
CALLS = st.lists(
    st.fixed_dictionaries({
        "id": st.text(), "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.text(), "arguments": st.text()})})
    | st.fixed_dictionaries({"id": st.text(), "type": st.text(), "custom": ANYTHING}),
    max_size=2,
)  # fmt: skip
PLACED = {"message_id": "m", "at": "2020-01-01T00:00:00Z", "source": "app", "exchange_id": None, "run_id": None}


@st.composite
def messages(draw):
    """A message that the domain takes, of any shape."""
    role = draw(st.sampled_from(["system", "developer", "user", "assistant", "tool"]))
    message = {"role": role, **draw(st.dictionaries(NAMES, ANYTHING, max_size=3)), "role": role}  # noqa: F601 - the drawn fields may contain a role too
    message |= draw(st.fixed_dictionaries({}, optional={"content": st.text() | PARTS | st.none()}))
    if role == "assistant":
        message |= draw(st.fixed_dictionaries({}, optional={"tool_calls": CALLS}))
    message |= {"tool_call_id": draw(st.text(min_size=1))} if role == "tool" else {}
    message |= draw(st.sampled_from([{}, {}, PLACED, {"threadledger_place": PLACED}]))
    try:
        return parse_message(message)
    except InvalidInput:
        assume(False)


@pytest.fixture
def two_stores(open_store_on, tmp_path):
    """The same two for all examples."""
    return [open_store_on(f"sqlite:///{tmp_path / name}") for name in ("here.db", "there.db")]


@settings(suppress_health_check=list(HealthCheck))
@given(st.lists(messages(), min_size=1, max_size=5))
@example([parse_message({"role": "user", "content": "x", **PLACED})])
@example([parse_message({"role": "user", "content": "x", "threadledger_place": PLACED | {"own": 1}})])
def test_what_is_exported_is_imported_again_with_an_equal_digest(two_stores, said):
    here, there = two_stores
    key = f"k{uuid4()}"

    def journal(conversation):
        for message in said:
            conversation.journal(message)

    here.journal.commit(key, journal, create=True)
    (imported_there,) = import_lines(there, [line.encode() for line in export_lines(here, [key])])
    assert imported_there.state == "imported", imported_there.reason
    assert there.memory(key).digest() == here.memory(key).digest()
    assert [each.message.as_chat_message() for each in there.memory(key).messages] == [
        each.as_chat_message() for each in said]  # fmt: skip


def test_metadata_that_is_named_like_our_own_fields_does_not_take_their_place(open_store):
    from threadledger.domain.conversation import Conversation

    ledger = open_store()
    ledger.journal.store(Conversation.start("k", {"id": "other", "messages": 7, "a": 1}))
    (line,) = export_lines(ledger)
    assert json.loads(line) == {"id": "k", "metadata": {"id": "other", "messages": 7, "a": 1}, "messages": []}


def test_the_time_at_which_a_message_was_written_goes_round(open_store):
    line = {"id": "k", "messages": [{"role": "user", "content": "hi", **PLACED}]}
    ledger = open_store()
    list(import_lines(ledger, as_lines([line])))
    (exported_line,) = export_lines(ledger)
    assert json.loads(exported_line)["messages"][0]["at"] == PLACED["at"]


def test_a_byte_order_mark_is_no_part_of_the_first_line(open_store):
    assert imported(open_store(), [b"\xef\xbb\xbf" + as_lines(OWN)[0]]) == [(1, "imported", 2)]
