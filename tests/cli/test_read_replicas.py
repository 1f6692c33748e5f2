"""Commands that read use the replica of THREADLEDGER_READ_DB: they print the same, say what is behind, and never write to it."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg  # noqa: F401 - imported before the time is frozen, which its C code does not accept
import pytest
from freezegun import freeze_time

import threadledger
from threadledger.adapters.sql import connections, replica
from threadledger.domain.conversation import RunPlan, text_message
from threadledger.domain.errors import StoreUnavailable

from ..adapters.postgres_pair import Node, Pair, pair, wait_for
from .auditing import NOW, open_story
from .command_table import TABLE, Entry
from .conftest import Done

READING = {path: entry for path, entry in TABLE.items() if entry.reads}
OF_THE_PRIMARY = {
    *{("doctor",), ("delete",), ("blobs", "prune"), ("serve", "keys", "list")},
    *{path for path in READING if path[0] in {"db", "replay"}},
}
"""Commands whose result must not be behind: plans, jobs, keys, and what they print of the database itself."""

Command = Callable[..., Done]

UP_TO_DATE = "the replica has all events of the primary"
INSTEAD = "read from the primary instead of the replica"


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    with pair(synchronous=False) as running:
        yield running


@dataclass
class Both:
    """A ledger on the primary, and the same on the standby."""

    servers: Pair
    name: str

    @property
    def url(self) -> str:
        return self._at(self.servers.primary)

    @property
    def read_url(self) -> str:
        return self._at(self.servers.standby)

    def _at(self, node: Node) -> str:
        return f"{node.url.rpartition('/')[0]}/{self.name}"

    def replayed(self) -> None:
        """Wait until the standby has everything that the primary has."""
        ((position,),) = self.servers.primary.ask("SELECT pg_current_wal_lsn()")
        wait_for(lambda: self.servers.standby.ask(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])


_names = (f"ledger{number}" for number in count())


@pytest.fixture
def both(servers: Pair, provider: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    """The story, with its views up to date, and the settings that name primary and replica."""
    made = Both(servers, next(_names))
    servers.primary.ask(f"CREATE DATABASE {made.name}")
    monkeypatch.setenv("THREADLEDGER_DB", made.url)
    monkeypatch.setenv("THREADLEDGER_READ_DB", made.read_url)
    monkeypatch.setattr(connections, "UNREACHED_SECONDS", 0.0)
    with freeze_time(NOW):
        with open_story(made.url) as ledger:
            ledger.conversations(search="parcel"), ledger.failures()
        made.replayed()
        yield made


def run(command: Command, entry: Entry, place: Path, *more: str) -> Done:
    """Run a command; what it writes on request goes to new files in `place`."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    new = {"FILE": str(place / "new.db"), "FOLDER": str(place / "new"), "URL": f"sqlite:///{place / 'new.db'}"}
    return command(*(new.get(each, each) for each in entry.arguments), *more)


def outcomes(command: Command, place: Path, *more: str) -> dict[tuple[str, ...], Done]:
    return {path: run(command, entry, place, *more) for path, entry in READING.items() if path not in OF_THE_PRIMARY}


def append(both: Both, key: str = "later") -> None:
    with threadledger.open(both.url, threads="none") as ledger:
        ledger.conversation(key).append("user", "One more parcel.")


def test_every_command_that_reads_prints_the_same_from_a_replica_and_from_the_primary_if_the_replica_is_gone(
    both: Both, command: Command, tmp_path: Path
) -> None:
    assert len(READING) - len(OF_THE_PRIMARY) > 15
    done = outcomes(command, tmp_path / "new", "-v")
    assert not [path for path, each in done.items() if UP_TO_DATE not in each.err or INSTEAD in each.err]
    both.servers.standby.kill()
    try:
        gone = outcomes(command, tmp_path / "new")
    finally:
        both.servers.standby.start()
    assert not [
        path for path, each in gone.items() if each.err.count(INSTEAD) != 1 or "cannot be reached" not in each.err
    ]
    assert {path: (each.code, each.out) for path, each in done.items()} == {
        path: (each.code, each.out) for path, each in gone.items()
    }


def test_commands_whose_result_must_not_be_behind_read_the_primary(
    copied: Path, command: Command, tmp_path: Path
) -> None:
    copied.unlink()  # a command that reads the replica says that it is missing
    done = {path: run(command, READING[path], tmp_path / "new") for path in sorted(OF_THE_PRIMARY)}
    assert not [path for path, each in done.items() if INSTEAD in each.err]


def test_a_replica_that_is_behind_is_read_and_reported_from_a_few_seconds_on_and_not_read_after_an_hour(
    both: Both, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = command("events", "-o", "json")
    both.servers.standby.ask("SELECT pg_wal_replay_pause()")
    append(both)
    fresh = command("events", "-o", "json")
    verbose = command("events", "-o", "json", "-v")
    with freeze_time(NOW + timedelta(seconds=7)):
        late = command("events", "-o", "json")
        (found,) = [row for row in command("doctor", "-o", "json").json if row["check"] == "replica"]
    with freeze_time(NOW + timedelta(hours=1, seconds=1)):
        broken = command("events", "-o", "json")
    both.servers.standby.ask("SELECT pg_wal_replay_resume()")
    said = "the replica is 2 events behind the primary; the oldest of them was written 7.0 s ago"
    assert before.out == fresh.out == verbose.out == late.out != broken.out
    assert (fresh.err, late.err) == ("", f"WARNING {said}\n")
    assert "2 events behind the primary; the oldest of them was written 0.0 s ago" in verbose.err
    assert INSTEAD in broken.err
    assert found["state"] == "finding"
    assert said in found["message"]
    both.replayed()
    (found,) = [row for row in command("doctor", "-o", "json").json if row["check"] == "replica"]
    assert (found["state"], found["message"].endswith(UP_TO_DATE)) == ("ok", True)


def test_a_view_that_lacks_events_on_the_replica_is_read_as_it_is_for_half_a_minute_and_then_from_the_primary(
    both: Both, command: Command
) -> None:
    before = command("list")
    append(both)
    both.replayed()
    fresh = command("list")
    with freeze_time(NOW + timedelta(seconds=7)):
        late = command("list")
    with freeze_time(NOW + timedelta(seconds=31)):
        updated = command("list")
        both.replayed()
        again = command("list")
    lacking = "WARNING the view conversations on the replica lacks events, of which the oldest was written 7.0 s ago"
    assert before.out == fresh.out == late.out != updated.out == again.out
    assert (fresh.err, again.err) == ("", "")
    assert late.err == f"{lacking}, and is read as it is\n"
    assert f"{INSTEAD}: the view conversations on the replica lacks events" in updated.err
    assert "later" in updated.out


def test_an_overdue_run_is_closed_on_the_primary_which_then_answers(both: Both, command: Command) -> None:
    with threadledger.open(both.url, threads="none") as ledger:
        question = text_message("user", "Hello.")
        ledger.journal.commit("late", lambda it: it.start_run(it.ask(question), RunPlan("chat", "m")), create=True)
        ledger.failures()
    both.replayed()
    with freeze_time(NOW + timedelta(days=2)):
        found = command("audit", "failures", "--cause", "interrupted", "-o", "json")
        assert [each["key"] for each in found.json] == ["customer-3", "late"]
        assert f"{INSTEAD}: a run is past its deadline" in found.err
        both.replayed()
        assert command("audit", "failures", "--cause", "interrupted", "-o", "json") == Done(0, found.out, "")


def test_another_ledger_and_another_history_are_not_read(
    both: Both, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = command("list")
    other = next(_names)
    both.servers.primary.ask(f"CREATE DATABASE {other}")
    with threadledger.open(both.url.replace(both.name, other), threads="none") as ledger:
        ledger.conversation("another ledger's").append("user", "Hello.")
        ledger.conversations()
    both.replayed()
    monkeypatch.setenv("THREADLEDGER_READ_DB", both.read_url.replace(both.name, other))
    refused = command("list")
    assert refused.out == expected.out
    assert "is another ledger than" in refused.err
    assert INSTEAD in refused.err


def test_commands_that_write_use_the_primary(both: Both, command: Command) -> None:
    (group, *_) = command("audit", "groups", "-o", "json").json
    assert command("audit", "resolve", group["group"]).code == 0
    assert command("append", "k", "user", "Hello.").code == 0
    both.replayed()
    assert command("audit", "groups", "-o", "json").json[-1]["state"] == "resolved"


def test_a_replica_answers_without_its_primary_and_says_so(both: Both, command: Command) -> None:
    expected = command("list")
    both.servers.primary.kill()
    try:
        alone = command("list")
        refused = command("db", "status")
    finally:
        both.servers.primary.start()
        both.replayed()
    assert alone.out == expected.out
    assert "read from the replica, without comparing it with the primary" in alone.err
    assert refused.code == 1


def test_a_reader_whose_replica_is_lost_continues_on_the_primary_and_still_refuses_to_write(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    with threadledger.open(read_only=True, threads="none") as ledger:
        expected = ledger.conversations(), [event.event for event in ledger.events()]
        assert ledger.journal.recorder.url == both.read_url
        both.servers.standby.kill()
        try:
            assert (ledger.conversations(), [event.event for event in ledger.events()]) == expected
        finally:
            both.servers.standby.start()
        assert ledger.journal.recorder.url == both.url
        said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert [each[: len(INSTEAD)] for each in said] == [INSTEAD]
        with pytest.raises(StoreUnavailable, match="read_only=True"):
            ledger.conversation("k").append("user", "Hello.")


@pytest.fixture
def copied(story_file: Path, provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the story's file, with views, and the settings that name both."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(story_file, "ledger.db")
    with freeze_time(NOW):
        with threadledger.open("ledger.db", threads="none") as ledger:
            ledger.conversations(search="parcel"), ledger.failures()
        shutil.copy("ledger.db", "copy.db")
        monkeypatch.setenv("THREADLEDGER_DB", "ledger.db")
        monkeypatch.setenv("THREADLEDGER_READ_DB", "copy.db")
        yield tmp_path / "copy.db"


def test_a_copied_file_is_read_and_never_written(copied: Path, command: Command, tmp_path: Path) -> None:
    before = hashlib.sha256(copied.read_bytes()).digest()
    assert UP_TO_DATE in command("list", "-v").err
    with threadledger.open("ledger.db", threads="none") as ledger:
        ledger.conversation("later").append("user", "One more parcel.")
    with freeze_time(NOW + timedelta(seconds=7)):
        assert "2 events behind" in command("list").err
        (found,) = [each for each in outcomes(command, tmp_path / "new").items() if each[0] == ("export",)]
        assert "2 events behind" in found[1].err
        assert "later" not in found[1].out
    with sqlite3.connect("copy.db") as connection:
        connection.execute("DELETE FROM tracking WHERE view = 'search'")
        connection.commit()
    connection.close()
    changed = hashlib.sha256(copied.read_bytes()).digest()
    built = command("search", "parcel")
    assert f"{INSTEAD}: the view search was never built there" in built.err
    assert "later" in built.out
    assert before != changed == hashlib.sha256(copied.read_bytes()).digest()


def test_a_copied_file_with_its_write_ahead_log_is_read_without_a_checkpoint(copied: Path, command: Command) -> None:
    sides = [copied, copied.with_name("copy.db-wal")]
    with threadledger.open("ledger.db", threads="none") as ledger:
        ledger.conversation("later").append("user", "One more parcel.")
        for side in sides:
            shutil.copy(side.name.replace("copy", "ledger"), side)
    before = [side.read_bytes() for side in sides]
    assert UP_TO_DATE in command("events", "-v").err
    assert [side.read_bytes() for side in sides] == before


def test_a_copy_that_was_written_to_by_itself_is_not_read(copied: Path, command: Command) -> None:
    for name in ("ledger.db", "copy.db"):
        with threadledger.open(name, threads="none") as ledger:
            ledger.conversation(f"only in {name}").append("user", "Hello.")
    done = command("list")
    assert "only in ledger.db" in done.out
    assert "differs from that of sqlite:///ledger.db at position" in done.err


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("missing.db", "there is no database at sqlite:///missing.db"),
        ("postgresql+psycopg://me:planted-word@127.0.0.1:1/x?sslpassword=planted-word", "cannot be reached"),
        ("postgresql+psycopg://me:planted@word@host/x", "the database URL cannot be read"),
        ("mysql://host/x", "are not supported"),
        ("", None),
    ],
)
def test_a_replica_that_cannot_be_used_is_named_without_its_password(
    value: str, reason: str | None, copied: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = command("list")
    monkeypatch.setattr(connections, "UNREACHED_SECONDS", 0.0)
    monkeypatch.setenv("THREADLEDGER_READ_DB", value)
    done = command("list")
    found = [row for row in command("doctor", "-o", "json").json if row["check"] == "replica"]
    assert (done.code, done.out) == (0, expected.out)
    assert (done.err.count("\n"), INSTEAD in done.err) == ((1, True) if reason else (0, False))
    assert (reason or "") in done.err
    assert [(each["state"], str(reason) in each["message"]) for each in found] == (
        [("finding", True)] if reason else []
    )
    assert "planted" not in done.err + str(found)
    assert "THREADLEDGER_DB" not in done.err


def test_an_option_that_names_another_database_has_no_replica(copied: Path, command: Command) -> None:
    shutil.copy("ledger.db", "third.db")
    assert "replica" not in command("list", "-v", "--db", "third.db").err


def test_a_query_that_the_standby_cancels_is_tried_again_and_then_sent_to_the_primary(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with threadledger.open(read_only=True, threads="none") as ledger:
        database = ledger.journal.recorder._database
        tried: list[bool] = []

        def conflict() -> str:
            tried.append(database.is_replica)
            if database.is_replica:
                raise connections.RolledBack("canceling statement due to conflict with recovery")
            return "answered"

        assert database.reconnecting(conflict) == "answered"
        assert tried == [True] * replica.CONFLICTS_MAX + [False]
