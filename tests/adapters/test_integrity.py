"""Each event is compared with its leaf hash wherever its text leaves the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import freezegun
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from threadledger.adapters import export_lines
from threadledger.adapters.sql import leaf_hash
from threadledger.adapters.sql.connections import checked, split_id
from threadledger.adapters.sql.damage import form_of, leaf_of_form_1, leaf_of_form_2, leaf_of_form_3, leaf_of_form_4
from threadledger.domain.conversation import Completion, Conversation, RunPlan, text_message
from threadledger.domain.errors import ChangedEvent, InvalidInput, ThreadledgerError
from threadledger.domain.failures import Failure
from threadledger.domain.journal import StoredRow, refuse_changed
from threadledger.domain.ledger import Ledger

from .writing import execute, open_at, stored_events

# The leaf hash


GOLDEN = (
    12,
    "conversation:a\nb",
    3,
    "MessageJournaled",
    b'{"content":"\\u00e9"}',
    "id-1",
    "2026-11-29T12:00:00.000000Z",
    2,
)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (leaf_of_form_1, "c03fb99fe231b5c465e770077ae56a27c5358598c7e6f76ab97aa87662fa5c6a"),
        (leaf_of_form_2, "a26e0e7043619836a5ffc7ee145a6c2c13c6b68818087b756920a0953fbd217a"),
        (leaf_of_form_3, "fc561166992d5a7ca6d24f2ce4630e03cad0e35025583633ad9f9ba384441ae5"),
        (leaf_of_form_4, "4074f54f4cd4e37bb4abc3806698c55ac335bdf76f256f32e5692a86b7583369"),
    ],
)
def test_the_leaf_hash_of_each_form_is_the_one_that_was_stored(form: Callable[[Any], bytes], expected: str) -> None:
    assert form(GOLDEN).hex() == expected
    assert form_of((*GOLDEN, form(GOLDEN))) is form


def test_the_leaf_hash_of_an_event_with_a_uuid_covers_its_sixteen_bytes() -> None:
    value, text = bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"
    hashed = b"leaf 4\n1\nk\nMessageJournaled\n1\n12\n3\n2026-11-29T12:00:00.000000Z\n" + value + b"{}"
    for event_id in (value, text):
        row = (12, "k", 3, "MessageJournaled", b"{}", event_id, "2026-11-29T12:00:00.000000Z", 1)
        assert leaf_of_form_4(row) == sha256(hashed).digest()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**40)
ids = st.binary(min_size=16, max_size=16)
read_rows = st.tuples(numbers, texts, numbers, texts, texts.map(str.encode), texts | ids, texts, numbers)


@given(read_rows, st.integers(0, 7), texts, numbers)
def test_a_row_with_another_value_in_any_column_does_not_match_its_leaf(
    row: tuple[Any, ...], column: int, text: str, number: int
) -> None:
    position, name, version, topic, state, event_id, at, schema = row
    stored = leaf_hash(StoredRow(name, version, topic, state, event_id, at, schema), position)
    assert list(checked([(*row, stored)], refuse_changed)) == [row]
    value = row[column]
    changed = text if isinstance(value, str) else number if isinstance(value, int) else text.encode()
    other = (*row[:column], changed, *row[column + 1 :])
    if other != row:
        with pytest.raises(ChangedEvent):
            list(checked([(*other, stored)], refuse_changed))


@given(read_rows, st.integers(0, 8), st.none() | st.binary() | st.floats() | st.integers(2**41))
def test_a_row_with_a_value_of_another_type_does_not_match_its_leaf(
    row: tuple[Any, ...], column: int, value: Any
) -> None:
    position, name, version, topic, state, event_id, at, schema = row
    assume(value not in {event_id, split_id(event_id)[0]})
    whole = (*row, leaf_hash(StoredRow(name, version, topic, state, event_id, at, schema), position))
    assume(value != whole[column])
    with pytest.raises(ChangedEvent):
        list(checked([(*whole[:column], value, *whole[column + 1 :])], refuse_changed))


def test_every_database_stores_the_leaf_hash_that_can_be_computed_by_hand(any_db_url: str) -> None:
    with open_at(any_db_url) as ledger:
        ledger.conversation("é\n2 🎉").extend(
            [{"role": "user", "content": "ü"}, {"role": "assistant", "content": "\0"}]
        )
    for each in stored_events(any_db_url):
        assert leaf_of_form_4(each.row) == each.leaf


# Changed rows


@pytest.fixture
def ledger(any_db_url: str) -> Iterator[Ledger]:
    """Two conversations; `changed` is at positions 1 to 5, `same` after it."""
    with open_at(any_db_url) as ledger:
        chat = ledger.conversation("changed")
        chat.append("user", "pay 1000")

        def exchange(conversation: Conversation) -> None:
            exchange_id = conversation.ask(text_message("user", "now"))
            run_id = conversation.start_run(exchange_id, RunPlan("chat", "m"))
            conversation.complete_run(run_id, Completion((text_message("assistant", "paid"),)))

        ledger.journal.commit("changed", exchange)
        ledger.conversation("same").append("user", "hello")
        yield ledger


def tamper(url: str, *statements: str) -> None:
    """Change rows as anybody could who may write to the database."""
    unlock = (
        ["DROP TRIGGER events_are_not_changed", "DROP TRIGGER events_are_not_deleted"]
        if url.startswith("sqlite")
        else ["ALTER TABLE events DISABLE TRIGGER USER"]
    )
    execute(url, *unlock, *statements)


PAY_9000 = "UPDATE events SET state = replace(state, '1000', '9000') WHERE position = 2"

READS: dict[str, Callable[[Ledger, Path], Any]] = {
    "memory": lambda ledger, _: ledger.memory("changed"),
    "the newest messages": lambda ledger, _: ledger.conversation("changed").memory(last=5),
    "memory as of a version": lambda ledger, _: ledger.memory("changed", at=2),
    "memory as of a time": lambda ledger, _: ledger.memory("changed", at=datetime.now(UTC) + timedelta(hours=1)),
    "the events of a conversation": lambda ledger, _: list(ledger.events(key="changed", checked=True)),
    "the events of the log": lambda ledger, _: list(ledger.events(checked=True)),
    "the events of one type": lambda ledger, _: list(ledger.events(types=["MessageJournaled"], checked=True)),
    "following the log": lambda ledger, _: [next(ledger.events(follow=True)) for _ in range(2)],
    "the exchanges": lambda ledger, _: ledger.exchanges("changed"),
    "a diff": lambda ledger, _: ledger.diff("changed", 1),
    "a fork": lambda ledger, _: ledger.fork("changed", "forked"),
    "an export": lambda ledger, _: list(export_lines(ledger)),
    "an export of one": lambda ledger, _: list(export_lines(ledger, ["changed"])),
    "a backup": lambda ledger, folder: ledger.back_up(folder / "backup.db"),
    "a copy": lambda ledger, folder: ledger.copy_to(f"sqlite:///{folder / 'copy.db'}"),
}


def test_a_changed_message_is_refused_by_name_wherever_its_text_leaves_the_ledger(
    ledger: Ledger, any_db_url: str, tmp_path: Path
) -> None:
    tamper(any_db_url, PAY_9000)
    for name, read in READS.items():
        with pytest.raises(ChangedEvent, match=r"event 2 of 'changed'.*position 2.* was changed") as refused:
            pytest.fail(f"{name} returned {read(ledger, tmp_path)}")
        assert (refused.value.key, refused.value.version, refused.value.position) == ("changed", 2, 2), name
        assert "9000" not in str(refused.value)
    assert not (tmp_path / "backup.db").exists()
    assert not list(tmp_path.glob("*.unfinished*"))
    with open_at(f"sqlite:///{tmp_path / 'copy.db'}") as copy:
        assert list(copy.events()) == []
    assert [each.key for each in ledger.conversations()] == ["same", "changed"]  # views and counts do not check
    assert [each.message.text for each in ledger.memory("same").messages] == ["hello"]
    ledger.conversation("changed").append("user", "one more")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("DELETE FROM events WHERE position = 2", "event 2 of 'changed' is missing"),
        ("UPDATE events SET topic = 'RunStarted' WHERE position = 2", "event 2 of 'changed' at position 2 was changed"),
        ("UPDATE events SET topic = 'Unknown' WHERE position = 2", "event 2 of 'changed' at position 2 was changed"),
        (
            "UPDATE events SET at = '2020-01-01T00:00:00.000000Z' WHERE position = 2",
            "event 2 of 'changed' at position 2",
        ),
        (
            "UPDATE streams SET version = 2 WHERE name = 'conversation:changed'",
            "event 6 of 'changed' is the newest one",
        ),
        (
            "UPDATE streams SET version = 9 WHERE name = 'conversation:changed'",
            "event 6 of 'changed' is the newest one",
        ),
    ],
)
def test_a_conversation_of_which_something_is_missing_or_was_moved_is_refused(
    ledger: Ledger, any_db_url: str, tmp_path: Path, change: str, named: str
) -> None:
    tamper(any_db_url, change)
    reads = [lambda: ledger.memory("changed"), lambda: ledger.conversation("changed").memory(last=10)]
    for read in reads:
        with pytest.raises(ChangedEvent, match=named):
            read()
    with pytest.raises(ChangedEvent):
        ledger.back_up(tmp_path / "backup.db")
    assert list(tmp_path.glob("backup*")) == []


def test_the_last_events_of_the_log_are_missed_by_a_backup_and_a_copy(
    ledger: Ledger, any_db_url: str, tmp_path: Path
) -> None:
    tamper(any_db_url, "DELETE FROM events WHERE stream = 2", "DELETE FROM streams WHERE stream = 2")
    for copy in (ledger.back_up, lambda path: ledger.copy_to(f"sqlite:///{path}")):
        with pytest.raises(ChangedEvent, match="at position 7: the events at 7 to 8 are missing"):
            copy(tmp_path / "copy.db")


def test_a_fold_of_the_log_reads_a_changed_event_and_misses_a_removed_one(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, PAY_9000)
    for wanted in ({}, {"types": ["MessageJournaled"]}, {"key": "changed"}):
        folded = [each for each in ledger.events(**wanted) if each.position == 2]
        assert "9000" in folded[0].event.content
        with pytest.raises(ChangedEvent, match=r"event 2 of 'changed'.* was changed"):
            list(ledger.events(**wanted, checked=True))
    execute(any_db_url, "DELETE FROM events WHERE position = 2")
    for wanted in ({}, {"types": ["MessageJournaled"]}, {"key": "changed"}):
        with pytest.raises(ChangedEvent, match="is missing"):
            list(ledger.events(**wanted))


def test_a_removed_event_or_conversation_is_missed_by_reads_of_some_event_types_too(
    ledger: Ledger, any_db_url: str
) -> None:
    runs = ["RunStarted"]
    tamper(any_db_url, "DELETE FROM events WHERE position = 2")
    for read in (lambda: ledger.events(types=runs, key="changed"), lambda: ledger.events(types=runs)):
        with pytest.raises(ChangedEvent, match=r"position 2 is missing|event 2 of 'changed' is missing"):
            list(read())
    assert [each.key for each in ledger.events(types=["MessageJournaled"], key="same")] == ["same"]
    execute(any_db_url, "DELETE FROM events WHERE stream = 1", "DELETE FROM streams WHERE stream = 1")
    with pytest.raises(ChangedEvent, match="an event at position 1 is missing"):
        list(export_lines(ledger))
    missing: list[Any] = []
    ledger.journal.uncheck(lambda *problem: missing.append(problem))
    assert len(list(export_lines(ledger))) == 1
    assert missing[0] == (None, None, 1, "is missing")


def test_a_run_is_not_shown_from_a_changed_event(ledger: Ledger, any_db_url: str) -> None:
    (run_id,) = ledger.exchanges("changed").runs
    assert ledger.run(run_id)[0].model == "m"
    tamper(any_db_url, """UPDATE events SET state = replace(state, '"m"', '"n"') WHERE topic = 'RunStarted'""")
    with pytest.raises(ChangedEvent, match="of 'changed' at position 4 was changed"):
        ledger.run(run_id)


def test_an_event_of_another_key_is_refused(ledger: Ledger, any_db_url: str) -> None:
    tamper(any_db_url, "UPDATE streams SET name = 'conversation:other' WHERE name = 'conversation:changed'")
    with pytest.raises(ChangedEvent, match="event 1 of 'other' at position 1 was changed"):
        ledger.memory("other")
    with pytest.raises(ChangedEvent):
        list(export_lines(ledger))


def test_rows_with_leaf_hashes_of_earlier_forms_stay_valid(ledger: Ledger, any_db_url: str, tmp_path: Path) -> None:
    expected = [each.as_json() for each in ledger.memory("changed").messages]
    forms = (leaf_of_form_1, leaf_of_form_2, leaf_of_form_3)
    changes = []
    for each in stored_events(any_db_url):
        leaf = forms[each.position % 3](each.row).hex()
        literal = f"x'{leaf}'" if any_db_url.startswith("sqlite") else f"decode('{leaf}', 'hex')"
        changes.append(f"UPDATE events SET leaf = {literal} WHERE position = {each.position}")
    tamper(any_db_url, *changes)
    assert [each.as_json() for each in ledger.memory("changed").messages] == expected
    assert list(ledger.check()) == []
    assert ledger.back_up(tmp_path / "backup.db") == 8
    tamper_again = PAY_9000.replace("position = 2", "version = 2")
    execute(any_db_url, tamper_again)
    with pytest.raises(ChangedEvent):
        ledger.memory("changed")


def test_memory_of_messages_among_many_runs_reads_every_event_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model sees is proved from all events before it, so an event cannot be hidden by another topic."""
    database = ledger.journal.recorder._database
    returned: list[Any] = []
    query = database.query

    def watched(statement: str, values: Any = ()) -> Any:
        found = query(statement, values)
        returned.extend(row[-1] for row in found if isinstance(row[-1], bytes))
        return found

    monkeypatch.setattr(database, "query", watched)
    ledger.memory("changed")
    of_stream = "SELECT e.leaf FROM events e JOIN streams s USING (stream) WHERE s.name = 'conversation:changed'"
    leaves = sorted(leaf for (leaf,) in query(of_stream))
    assert len(leaves) == 6
    assert sorted(returned) == leaves


@pytest.mark.parametrize("position", [3, 7])  # of the conversation `changed`, or the end of the log
@pytest.mark.parametrize("column", ["text_id", "topic", "at", "state"])
def test_an_event_that_cannot_be_decoded_is_refused_by_name_and_blocks_no_list(
    column: str, position: int, tmp_path: Path
) -> None:
    """A flipped bit often makes a byte that is not UTF-8, which SQLite's driver refuses to read."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with open_at(url) as ledger:
        ledger.conversation("same").append("user", "hello")
        ledger.conversation("changed").extend([{"role": "user", "content": text} for text in ("pay", "me", "now", "!")])
        other = ", id = NULL" if column == "text_id" else ""
        changed = f"CAST(coalesce({column}, '') || x'ff' AS TEXT){other}"
        tamper(
            url,
            f"UPDATE events SET {column} = {changed} WHERE position = {position}",
        )
        assert {each.key for each in ledger.conversations()} >= {"same"}
        assert [each.key for each in ledger.conversations(search="hello")] == ["same"]
        assert ledger.failures() == []
        ledger.rebuild_views(["conversations"]) if column == "text_id" else None
        copy = f"sqlite:///{tmp_path / 'copy.db'}"
        for read in (
            lambda: ledger.memory("changed"),
            lambda: list(export_lines(ledger)),
            lambda: ledger.copy_to(copy),
        ):
            with pytest.raises(ChangedEvent) as refused:
                read()
            assert (refused.value.key, refused.value.position) == ("changed", position)
        assert len(ledger.memory("same").messages) == 1
        ledger.journal.uncheck(lambda *problem: None)
        assert len(list(export_lines(ledger))) == 2


@pytest.mark.parametrize("value", ["'text'", "7", "0.5", "x''", "CAST(x'61ff' AS TEXT)"])
@pytest.mark.parametrize("column", ["leaf", "state", "version", "at", "schema", "stream"])
def test_a_column_with_a_value_of_another_type_is_refused_by_every_read(
    column: str, value: str, tmp_path: Path
) -> None:
    """A flipped bit in the header of a row changes the type of a value."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with open_at(url) as ledger:
        ledger.conversation("changed").extend([{"role": "user", "content": text} for text in ("pay", "1000", "now")])
        execute(url, "PRAGMA foreign_keys = OFF")
        tamper(url, f"UPDATE events SET {column} = {value} WHERE position = 2")
        for name, read in READS.items():
            with pytest.raises(ThreadledgerError):
                pytest.fail(f"{name} returned {read(ledger, tmp_path)}")
        assert list(ledger.check())
        ledger.conversations()


# Times and views in the check


def findings(ledger: Ledger) -> list[tuple[str, int | None, str]]:
    return [(each.subject, each.version, each.problem) for each in ledger.check()]


def test_a_check_reports_times_in_the_future_and_times_that_go_backwards(any_db_url: str) -> None:
    with open_at(any_db_url) as ledger:
        with freezegun.freeze_time("2026-11-29T12:00:00Z"):
            ledger.conversation("k").append("user", "now")
        with freezegun.freeze_time("2026-11-29T11:57:00Z"):  # a clock a few minutes behind
            assert findings(ledger) == []
        with freezegun.freeze_time("2026-11-29T11:00:00Z"):
            problems = findings(ledger)
        assert [(subject, version) for subject, version, _ in problems] == [("time", 1), ("time", 2)]
        assert "2026-11-29T12:00:00.000000Z, in the future" in problems[0][2]
        moved = "2026-11-29T11:00:00.000000Z"
        row = stored_events(any_db_url)[1]
        whole = (*row.row[:6], moved, row.schema)
        leaf = leaf_of_form_4(whole).hex()
        literal = f"x'{leaf}'" if any_db_url.startswith("sqlite") else f"decode('{leaf}', 'hex')"
        tamper(any_db_url, f"UPDATE events SET at = '{moved}', leaf = {literal} WHERE position = 2")
        with freezegun.freeze_time("2026-11-29T12:00:00Z"):
            assert ("time", 2) in [(subject, version) for subject, version, _ in findings(ledger)]


VIEW_DAMAGE = [
    "UPDATE view_conversations_{conversations}_states SET state = '{{'",
    "UPDATE view_conversations_{conversations}_states SET state = '[]'",
    "ALTER TABLE view_conversations_{conversations}_states DROP COLUMN written_at",
    "DROP TABLE view_conversations_{conversations}_states",
]


@pytest.mark.parametrize("damage", VIEW_DAMAGE)
def test_a_view_that_cannot_be_read_is_a_finding_and_is_rebuilt_by_the_next_reader(
    ledger: Ledger, any_db_url: str, damage: str
) -> None:
    expected = [each.as_json() for each in ledger.conversations()]
    (view,) = [each for each in ledger.status()["views"] if each["name"] == "conversations"]
    execute(any_db_url, damage.format(conversations=f"{view['version']}_1"))
    ((subject, _, problem),) = findings(ledger)
    assert subject == "view"
    assert "conversations has a row that cannot be read" in problem
    assert "db rebuild-views conversations" in problem
    assert [each.as_json() for each in ledger.conversations()] == expected
    assert findings(ledger) == []


def test_a_damaged_view_of_runs_is_rebuilt_by_the_next_reader(ledger: Ledger, any_db_url: str) -> None:
    def fail(conversation: Conversation) -> None:
        exchange_id = conversation.ask(text_message("user", "again"))
        conversation.fail_run(conversation.start_run(exchange_id, RunPlan("chat", "m")), Failure("error", message="no"))

    ledger.journal.commit("same", fail)
    expected = ledger.failures()
    assert len(expected) == 1
    (view,) = [each for each in ledger.status()["views"] if each["name"] == "audit"]
    for column in ("cause", "exchange_id"):
        execute(any_db_url, f"ALTER TABLE view_audit_{view['version']}_1_runs RENAME COLUMN {column} TO other_{column}")
        assert [each[0] for each in findings(ledger)] == ["view"]
        assert ledger.failures() == expected
        assert findings(ledger) == []


def test_a_text_that_cannot_be_searched_leaves_the_views_as_they_are(ledger: Ledger) -> None:
    ledger.conversations(search="hello")
    before = ledger.status()["views"]
    with suppress(ValueError):
        ledger.conversations(search="\ud800")
    assert ledger.status()["views"] == before


def test_a_column_of_another_type_is_a_finding_and_refuses_a_backup(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with open_at(url) as ledger:
        ledger.conversation("k").extend([{"role": "user", "content": text} for text in ("one", "two", "three")])
        tamper(url, "UPDATE events SET version = 'three' WHERE position = 3")
        assert "database" in [each.subject for each in ledger.check()]
        with pytest.raises(ChangedEvent):
            ledger.back_up(tmp_path / "backup.db")
        with pytest.raises(ChangedEvent, match="event three of 'k' is the newest one"):
            ledger.memory("k", at=3)


def test_a_window_is_read_by_one_query_and_all_that_it_holds_is_checked(
    ledger: Ledger, any_db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ledger.conversation("long")
    chat.extend([{"role": ("user", "assistant")[number % 2], "content": f"text {number}"} for number in range(100)])
    database, asked = ledger.journal.recorder._database, list[str]()
    query = database.query
    monkeypatch.setattr(
        database, "query", lambda statement, values=(): asked.append(statement) or query(statement, values)
    )
    window = chat.memory(last=20)
    assert len(asked) == 1
    assert [each["content"] for each in window.as_chat_messages()] == [f"text {number}" for number in range(80, 100)]
    whole = ledger.memory("long").window(last=20)
    assert window == whole
    assert (window.first_version, window.digest()) == (whole.first_version, whole.digest())
    tamper(any_db_url)
    for version in (2, 90, 101):  # the beginning shows whether the conversation has instructions
        of_event = (
            f"WHERE version = {version} AND stream = (SELECT stream FROM streams WHERE name = 'conversation:long')"
        )
        execute(any_db_url, f"UPDATE events SET at = '1' || at {of_event}")
        with pytest.raises(ChangedEvent) as caught:
            chat.memory(last=20)
        assert caught.value.version == version
        execute(any_db_url, f"UPDATE events SET at = substr(at, 2) {of_event}")
        assert chat.memory(last=20) == window


def test_the_events_of_a_conversation_after_a_position_are_those_of_all_that_are_later(ledger: Ledger) -> None:
    for number in range(23):
        ledger.conversation(f"k{number % 3}").append("user", str(number))
    logged = list(ledger.events(key="k1"))
    for position in range(logged[-1].position + 2):
        later = [each for each in logged if each.position > position]
        assert list(ledger.events(after=position, key="k1")) == later
        types = ("ConversationStarted",)
        assert list(ledger.events(after=position, types=types, key="k1")) == [
            each for each in later if each.type in types
        ]


def test_a_version_below_0_is_refused_as_input_and_not_called_damage(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="-15 is no version"):
        ledger.conversation("changed").events(after=-15)


def test_a_message_is_retracted_wherever_it_is_in_memory_and_only_once(ledger: Ledger) -> None:
    chat = ledger.conversation("many")
    said = chat.extend([{"role": "user", "content": str(number)} for number in range(30)])
    for message in (said[0], said[14], said[29], said[14]):
        chat.retract(message.message_id)
    chat.retract("of no message")
    left = [str(number) for number in range(30) if number not in {0, 14, 29}]
    assert [each.message.text for each in chat.memory().messages] == left
    assert sum(event.originator_version > 31 for event in chat.events()) == 3
