"""Test claims on threads and on items of jobs: who holds one, when it ends, and what users are shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from threadledger.adapters.sql import Database, Factory, SqlMirrorHeads, claims
from threadledger.adapters.sql.claims import SqlJobClaims, described, holder_of, is_held, unique_of
from threadledger.domain import limits
from threadledger.domain.failures.groups import normalised
from threadledger.domain.ids import now, to_iso
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger

AT = "2026-11-29T12:00:00.000000Z"
LATER = "2026-11-29T12:00:30.000000Z"
EARLIER = "2026-11-29T11:59:59.000000Z"
MINUTES = timedelta(minutes=10)


class Claimed:
    """Claim one thing, a thread or an item of a job, under the name of a worker."""

    def __init__(self, database: Database, kind: str) -> None:
        self.database, self.kind = database, kind
        self.heads, self.items = SqlMirrorHeads(database), SqlJobClaims(database)

    def take(self, name: str, lasting: timedelta = MINUTES) -> bool:
        """Claim it, and return whether it was free."""
        if self.kind == "thread":
            return self.heads.claim("conversation:k", "conversations", "conv_1", name, now() + lasting) is not None
        return bool(self.items.take("job", [0], holder_of(name), now() + lasting).taken)

    def release(self, name: str) -> None:
        if self.kind == "thread":
            self.heads.release("conversation:k", "conversations", name)
        else:
            self.items.give_back("job", holder_of(name))

    def extend(self) -> None:
        """Extend the claims of this process, as happens in the background."""
        claims.renewal_of(self.database).extend()

    def stored(self, holder: str, until: str) -> None:
        """Store the claim of another process."""
        self.take("to be replaced")
        self.release("to be replaced")
        table = "mirror_heads" if self.kind == "thread" else "job_items"
        self.database.execute(f"UPDATE {table} SET holder = ?, held_until = ?", (holder, until))

    def shown(self) -> str:
        """Return what users are shown about its holder."""
        if self.kind == "thread":
            return self.heads.holder("conversation:k", "conversations")
        return "".join(self.items.holders("job").values())


@pytest.fixture
def database(any_db_url: str) -> Iterator[Database]:
    database = Database(any_db_url)
    with Ledger(Journal(Factory(database=database))):
        yield database


@pytest.fixture(params=["thread", "item"])
def claimed(request: pytest.FixtureRequest, database: Database) -> Claimed:
    return Claimed(database, request.param)


def owner(pid: int, started: str | None = None, name: str = "other") -> str:
    """Return the stored owner of a process of this machine."""
    machine = holder_of("").split("/")[0]
    found = claims._process(pid)
    return f"{machine}/{pid}@{started or (found.started if found is not None else '1')}/{name}"


@pytest.fixture
def process() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Return a function that starts a process which does nothing until it is killed."""
    started = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def test_a_claim_holds_while_its_process_runs_and_ends_at_once_with_it(
    claimed: Claimed, process: Callable[[], Any]
) -> None:
    other = process()
    claimed.stored(owner(other.pid), to_iso(now() + MINUTES))
    assert not claimed.take("me")
    other.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but its parent has not asked for its status
    assert claimed.take("me")


def test_a_reused_process_id_holds_nothing(claimed: Claimed) -> None:
    claimed.stored(owner(os.getpid(), started="1"), to_iso(now() + MINUTES))
    assert claimed.take("me")


@pytest.mark.parametrize(
    "elsewhere",
    [
        "another-machine#0123456789ab/1@1/x",
        f"{holder_of('').partition('#')[0]}#0123456789ab/1@1/x",  # the same name, another machine or boot
        "0190f3a1-0000-7000-8000-000000000000",  # earlier versions stored an id, or no start time
        "this-machine/999999999/x",
        "",
    ],
)
def test_other_owners_hold_until_their_time_is_over(claimed: Claimed, elsewhere: str) -> None:
    claimed.stored(elsewhere, to_iso(now() + MINUTES))
    assert not claimed.take("me")
    claimed.stored(elsewhere, to_iso(now() - timedelta(seconds=1)))
    assert claimed.take("me")


@settings(max_examples=50)
@given(st.text(), st.sampled_from([LATER, EARLIER, AT, None]))
def test_whatever_is_stored_as_owner_only_its_time_counts_unless_it_is_a_process_of_this_machine(
    holder: str, until: str | None
) -> None:
    assert is_held(holder, until, AT) == (until == LATER)
    assert isinstance(described(holder, until), str)
    assert unique_of(holder_of(holder)) == holder


def test_a_claim_lasts_for_a_lease_at_most_and_is_extended_while_its_owner_works(claimed: Claimed) -> None:
    on_a_server = claimed.database.kind.name == "postgresql"
    interval = claims.renewal_seconds(claimed.database)
    with freeze_time("2026-11-29 12:00:00") as clock:
        assert claimed.take("me", timedelta(seconds=limits.CLAIM_STEP_SECONDS_MAX))
        assert f"until 2026-11-29T12:0{'0:15' if on_a_server else '1:00'}Z" in claimed.shown()
        for _ in range(int(limits.CLAIM_STEP_SECONDS_MAX / interval) - 1):
            clock.tick(interval)
            claimed.extend()
            assert not claimed.take("other")
        clock.tick(interval + 1)
        claimed.extend()  # an owner that made no step in ten minutes hangs
        assert claimed.take("other")


def test_a_claim_that_was_released_is_not_extended(claimed: Claimed) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        claimed.take("me")
        claimed.release("me")
        claimed.take("other", timedelta(seconds=30))
        clock.tick(31)
        claimed.extend()
        assert claimed.take("third")


def test_claims_are_extended_in_the_background_until_they_are_released(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "renewal_seconds", lambda _: 0.001)
    extended, extend = threading.Event(), claims.Renewal.extend

    def seen(renewal: claims.Renewal) -> None:
        extend(renewal)
        extended.set()

    monkeypatch.setattr(claims.Renewal, "extend", seen)
    claimed.take("me")
    assert extended.wait(30)
    assert at_work() == 1
    claimed.release("me")
    claimed.database.renewal.stop()
    assert at_work() == 0


def at_work() -> int:
    """Return the number of threads that extend claims."""
    return sum(thread.name == "threadledger-claims" for thread in threading.enumerate())


def test_a_database_that_is_closed_extends_no_claims(claimed: Claimed) -> None:
    claimed.take("me")
    assert at_work() == 1
    claimed.database.close()
    assert at_work() == 0


def test_the_claims_of_a_forked_child_are_its_own() -> None:
    """A child that claims under the same name must not hold what its parent holds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, holder_of("me").encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        childs = pipe.read()
    assert childs != holder_of("me")
    assert not is_held(childs, LATER, AT)


def in_a_child(work: Callable[[], object]) -> str:
    """Return what a function returns in a forked child, or its error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(work()).encode())
        except BaseException as error:  # noqa: BLE001 - the child ends here after any error
            os.write(writing, repr(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_child_that_is_forked_while_claims_are_extended_can_use_the_database(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, may_end, extended = threading.Event(), threading.Event(), claims.Renewal._extended

    def slowly(renewal: claims.Renewal, *arguments: Any) -> None:
        writing.set()
        may_end.wait(30)
        extended(renewal, *arguments)

    monkeypatch.setattr(claims.Renewal, "_extended", slowly)
    claimed.take("me")
    extending = threading.Thread(target=claimed.extend)
    extending.start()
    assert writing.wait(30)
    threading.Timer(0.05, may_end.set).start()
    assert in_a_child(lambda: claimed.database.query("SELECT count(*) FROM events")[0][0]) == "0"
    extending.join()
    assert in_a_child(lambda: claimed.take("me")) == "False"  # the parent still has it
    claimed.release("me")
    assert in_a_child(lambda: (claimed.take("me"), at_work())) == "(True, 1)"


@pytest.mark.parametrize("trouble", ["no thread can be started", "unforeseen error"])
def test_a_claim_that_cannot_be_extended_is_held_and_released_and_later_ones_are_extended(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(claims, "renewal_seconds", lambda _: 0)
        patch.setattr(threading, "excepthook", lambda _: None)
        if trouble == "no thread can be started":
            patch.setattr(threading.Thread, "start", failing(RuntimeError("can't start new thread")))
        else:
            patch.setattr(claims.Renewal, "extend", failing(ValueError(trouble)))
        assert claimed.take("me")
        assert claimed.database.renewal._ended.wait(30)
        assert not claimed.take("other")
    claimed.release("me")
    assert claimed.take("other")
    assert at_work() == 1


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise error

    return fail


def test_a_clock_that_is_set_neither_ends_nor_prolongs_the_claim_of_an_owner(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0
    monkeypatch.setattr(claims, "time", SimpleNamespace(monotonic=lambda: passed))
    with freeze_time("2026-11-29 12:00:00") as clock:
        claimed.take("me", timedelta(seconds=90))
        for hour in (15, 9):
            passed += 30
            clock.move_to(f"2026-11-29 {hour}:00:00")
            claimed.extend()
            assert not claimed.take("other")
        passed, _ = 91, clock.tick(61)
        claimed.extend()
        assert claimed.take("other")


@pytest.mark.parametrize("missing", ["ns/time", "ns/", "boot_id", "/proc"])
def test_a_machine_is_told_from_others_of_its_name_by_whatever_its_system_reports(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    names = set()
    for boot, namespace, card in (("a", "1", 1), ("b", "1", 2), ("a", "2", 3)):

        def read(path: Path, boot: str = boot, namespace: str = namespace, **_: Any) -> Any:
            if missing in str(path):
                raise FileNotFoundError(path)
            return boot if "boot_id" in str(path) else Path(namespace if path.name == "pid" else "same")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", read)
            patch.setattr(Path, "readlink", read)
            patch.setattr("uuid.getnode", lambda card=card: card)
            names.add(claims._machine.__wrapped__())
    assert len(names) == (2 if missing == "ns/" else 3)


KILLED = """
import os, signal, sys
import threadledger
from threadledger.adapters.sql import SqlMirrorHeads

claim = SqlMirrorHeads.claim
def killed(*given, **named):
    claim(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
SqlMirrorHeads.claim = killed
with threadledger.open(sys.argv[1], openai_base_url=sys.argv[2], openai_api_key="sk-test") as ledger:
    ledger.conversation("k").append("user", "Where is it?")
"""


def test_a_thread_is_written_at_once_after_its_writer_was_killed(
    open_ledger: Callable[..., Any], simulator: Any, db_url: str, tmp_path: Path
) -> None:
    killed = [sys.executable, "-W", "ignore", "-c", KILLED, db_url, simulator.base_url]
    assert subprocess.run(killed, check=False, cwd=tmp_path).returncode == -signal.SIGKILL
    ledger = open_ledger()
    ledger.conversation("k").append("user", "And the other one?")
    assert [found.found.state.value for found in ledger.replay.verify()] == ["same"]
    assert len(simulator.provider.conversations) == 1


def test_users_are_shown_the_process_and_the_time_and_groups_of_failures_leave_them_out(claimed: Claimed) -> None:
    assert claimed.shown() == ""
    claimed.stored(owner(os.getpid()), "2999-01-01T00:00:30.000000Z")
    host = holder_of("").partition("#")[0]
    assert claimed.shown() == f"process {os.getpid()} on {host!r} until 2999-01-01T00:00:30Z"
    claimed.stored("0190f3a1-0000-7000-8000-000000000000", "2999-01-01T00:00:30.000000Z")
    assert claimed.shown() == "another process until 2999-01-01T00:00:30Z"
    first, second = (described(f"{each}#1/{pid}@1/x", LATER) for each, pid in (("build-1", 41), ("laptop", 7)))
    assert normalised(first) == normalised(second)


def test_a_run_that_finds_its_thread_busy_names_the_process_and_the_time(
    open_ledger: Callable[..., Any], db_url: str
) -> None:
    ledger = open_ledger(backends=("responses", "chat"), threads="conversations", retries=0)
    ledger.conversation("k").append("user", "Where is it?")
    database = Database(db_url)
    thread_id = ledger.state("k").links["conversations"].thread_id
    SqlMirrorHeads(database).claim("conversation:k", "conversations", thread_id, "other", now() + MINUTES)
    (failure,) = ledger.conversation("k").ask("And the other one?").failures
    database.close()
    assert failure.cause.value == "thread_busy"
    assert f"another process is writing to the thread: process {os.getpid()} on " in failure.summary()
