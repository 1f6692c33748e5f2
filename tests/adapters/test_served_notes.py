"""Test who answers an exchange of the served API, and which of its responses were not fully sent, on every database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.adapters.sql import Database, Factory
from threadledger.adapters.sql.claims import claim_seconds, renewal_seconds
from threadledger.adapters.sql.served_notes import SqlServedNotes
from threadledger.domain.ids import new_id, now, to_iso
from threadledger.domain.journal import Also, Journal
from threadledger.domain.journal.served_notes import UNSENT_SECONDS_MAX, together
from threadledger.domain.ledger import Ledger

STREAM = "conversation:k"
PLACE = (STREAM, "exchange-1")


class Server:
    """A database, with its journal and notes, as one process has them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        self.journal = Journal(Factory(database=self.database))
        self.notes = self.journal.served_notes
        assert isinstance(self.notes, SqlServedNotes)
        self.lease, self.interval = claim_seconds(self.database), renewal_seconds(self.database)
        self.renewals = int(self.lease / self.interval)

    def append(self, *also: Also | None) -> None:
        """Append an event of a conversation, with notes in its transaction."""
        self.journal.commit(
            "k", lambda conversation: conversation.clear_memory(new_id()), create=True, also=together(*also)
        )

    def claim(self, exchange_id: str = PLACE[1]) -> None:
        self.append(self.notes.claim(STREAM, exchange_id))

    def extend(self) -> None:
        """Extend the claims of this server, as happens in the background."""
        self.database.renewal.extend()

    def rows(self, table: str = "exchange_claims") -> list[Any]:
        return self.database.query(f"SELECT * FROM {table}")

    @property
    def extends(self) -> bool:
        """Whether the claims of this server are still looked for."""
        return "renewal" in vars(self.database) and bool(self.database.renewal._claims)


@pytest.fixture
def opened(any_db_url: str) -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def open_one() -> Server:
        servers.append(Server(any_db_url))
        return servers[-1]

    yield open_one
    for each in servers:
        each.journal.close()


@pytest.fixture
def one(opened: Callable[[], Server]) -> Server:
    return opened()


@pytest.fixture
def other(opened: Callable[[], Server]) -> Server:
    return opened()


def test_a_claim_is_held_from_the_commit_of_its_append_and_by_one_process(one: Server, other: Server) -> None:
    one.claim()
    assert not other.notes.hold(*PLACE)
    assert one.notes.hold(*PLACE)
    assert other.notes.abandoned(10) == []
    assert other.notes.hold(STREAM, "another exchange")
    assert not one.notes.hold(STREAM, "another exchange")


def test_an_append_that_is_rolled_back_claims_and_notes_nothing_and_is_soon_forgotten(one: Server) -> None:
    class Broken(Exception):
        pass

    def breaks(_: Any) -> None:
        raise Broken

    with freeze_time("2026-11-29 12:00:00") as clock:
        with pytest.raises(Broken):
            one.append(one.notes.claim(*PLACE), one.notes.note("r-1", "f"), breaks)
        assert (one.rows(), one.rows("unsent_responses"), one.extends) == ([], [], True)
        for _ in range(one.renewals + 1):
            assert one.extends
            one.extend()
            clock.tick(one.interval)
        one.extend()
        assert not one.extends
        one.claim()
        assert one.extends


def test_claims_that_are_not_found_while_the_database_is_away_are_extended_again(
    one: Server, other: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadledger.domain.errors import StoreUnavailable

    def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    with freeze_time("2026-11-29 12:00:00") as clock:
        one.claim()
        with monkeypatch.context() as patch:
            patch.setattr(one.database, "write", away)
            for _ in range(one.renewals * 3):
                clock.tick(one.interval)
                with pytest.raises(StoreUnavailable):
                    one.extend()
        one.extend()
        assert not other.notes.hold(*PLACE)


def test_a_claim_is_extended_for_as_long_as_its_process_answers(one: Server, other: Server) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        one.claim()
        for _ in range(one.renewals * 5):
            clock.tick(one.interval)
            one.extend()
            assert not other.notes.hold(*PLACE)
            assert other.notes.abandoned(10) == []
        clock.tick(one.lease)
        assert other.notes.abandoned(10) == [PLACE]
        assert other.notes.hold(*PLACE)


def test_a_claim_that_was_taken_by_hold_is_extended_too(one: Server, other: Server) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        assert one.notes.hold(*PLACE)
        for _ in range(one.renewals + 1):
            clock.tick(one.interval)
            one.extend()
        assert not other.notes.hold(*PLACE)


KILLED = """
import sys
from threadledger.adapters.sql import Database, Factory
from threadledger.domain.journal import Journal

journal = Journal(Factory(database=Database(sys.argv[1])))
for exchange in ("exchange-1", "exchange-2"):
    journal.commit(
        "k",
        lambda conversation: conversation.clear_memory(exchange),
        create=True,
        also=journal.served_notes.claim("conversation:k", exchange),
    )
print("claimed", flush=True)
sys.stdin.read()
"""


def test_the_exchanges_of_a_killed_process_are_abandoned_at_once(one: Server) -> None:
    command = [sys.executable, "-c", KILLED, one.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        one.claim("mine")
        assert one.notes.abandoned(10) == []
        assert not one.notes.hold(*PLACE)
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its parent has not asked for its status yet
        assert one.notes.abandoned(10) == [PLACE, (STREAM, "exchange-2")]
        assert one.notes.abandoned(1) == [PLACE]
        assert one.notes.hold(*PLACE)
        assert one.notes.abandoned(10) == [(STREAM, "exchange-2")]


def test_a_process_on_another_machine_holds_until_its_time_is_over(one: Server) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        one.claim()
        one.database.execute("UPDATE exchange_claims SET holder = 'another-machine#0123456789ab/1@1/x'")
        assert one.notes.abandoned(10) == []
        assert not one.notes.hold(*PLACE)
        one.extend()
        clock.tick(one.lease)
        assert one.notes.abandoned(10) == [PLACE]
        assert one.notes.hold(*PLACE)


def test_a_forked_child_holds_none_of_its_parents_claims(one: Server) -> None:
    one.claim()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(one.notes.hold(*PLACE)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "False"
    assert one.notes.hold(*PLACE)


def test_an_exchange_that_waits_is_held_by_nobody_and_abandoned_when_its_time_is_over(
    one: Server, other: Server
) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        one.claim()
        one.append(one.notes.wait(*PLACE, to_iso(now() + timedelta(minutes=10))))
        clock.tick(timedelta(minutes=9))
        one.extend()
        assert other.notes.abandoned(10) == []
        clock.tick(timedelta(minutes=1))
        assert other.notes.abandoned(10) == [PLACE]
        assert other.notes.hold(*PLACE)
        assert not one.notes.hold(*PLACE)


def test_a_process_that_gets_the_results_of_tools_answers_before_they_were_due(one: Server, other: Server) -> None:
    one.claim()
    one.append(one.notes.wait(*PLACE, to_iso(now() + timedelta(minutes=10))))
    other.claim()
    assert not one.notes.hold(*PLACE)
    other.append(other.notes.wait(*PLACE, to_iso(now() + timedelta(minutes=10))))
    assert one.notes.hold(*PLACE)
    assert not other.notes.hold(*PLACE)


def test_a_process_that_calls_tools_late_does_not_end_the_claim_of_the_one_that_took_over(
    one: Server, other: Server
) -> None:
    one.claim()
    other.claim()
    one.append(one.notes.wait(*PLACE, "9999-01-01T00:00:00.000000Z"))
    assert not one.notes.hold(*PLACE)
    assert other.notes.hold(*PLACE)


def test_an_exchange_that_has_ended_is_claimed_and_extended_no_longer(one: Server, other: Server) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        one.claim()
        one.claim("exchange-2")
        one.notes.settle(ended=[PLACE])
        one.extend()
        clock.tick(one.lease)
        assert other.notes.abandoned(10) == [(STREAM, "exchange-2")]
        other.notes.settle(ended=[(STREAM, "exchange-2")])
        assert one.rows() == []


def test_abandoned_exchanges_come_in_the_order_in_which_they_ended(one: Server, other: Server) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        for number in (2, 3, 1):
            one.claim(f"exchange-{number}")
            clock.tick(1)
        clock.tick(one.lease)
        found = other.notes.abandoned(10)
        assert [exchange for _, exchange in found] == ["exchange-2", "exchange-3", "exchange-1"]
        assert other.notes.abandoned(2) == found[:2]
        assert other.notes.abandoned(0) == []


def test_of_many_that_want_an_exchange_one_gets_it(opened: Callable[[], Server]) -> None:
    servers = [opened() for _ in range(4)]
    places = [(STREAM, f"exchange-{number}") for number in range(20)]
    servers[0].append(*(servers[0].notes.claim(*place) for place in places[::2]))
    servers[0].notes.release_all()

    def hold_all(server: Server) -> list[tuple[str, str]]:
        return [place for place in places if server.notes.hold(*place)]

    with ThreadPoolExecutor(len(servers)) as pool:
        held = [place for each in pool.map(hold_all, servers) for place in each]
    assert sorted(held) == sorted(places)


def test_a_process_that_gives_up_all_its_claims_is_replaced_at_once(one: Server, other: Server) -> None:
    for number in (1, 2):
        one.claim(f"exchange-{number}")
    other.claim("others")
    one.notes.release_all()
    assert not one.extends
    assert other.notes.abandoned(10) == [PLACE, (STREAM, "exchange-2")]
    assert other.notes.hold(*PLACE)
    assert not one.notes.hold(*PLACE)
    assert not one.notes.hold(STREAM, "others")


def test_the_journals_of_one_process_hold_their_claims_together(one: Server) -> None:
    ledger = Ledger(one.journal)
    acting = Ledger(one.journal).as_actor("anna").journal
    fresh = Journal(one.journal._given_factory)
    assert ledger.journal.served_notes is acting.served_notes is fresh.served_notes


def test_the_newest_request_of_a_fingerprint_whose_response_was_not_sent_is_found(one: Server, other: Server) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        for request in ("r-1", "r-2"):
            one.append(one.notes.note(request, "same"))
            clock.tick(1)
        one.append(one.notes.note("r-3", "different"), None)
        assert other.notes.unsent("same") == "r-2"
        one.append(one.notes.note("r-1", "different"))
        assert [other.notes.unsent(each) for each in ("same", "different", "unknown")] == ["r-2", "r-3", None]
        assert [other.notes.fingerprint_of(each) for each in ("r-1", "r-3", "r-4")] == ["same", "different", None]
        one.notes.settle(sent=["r-2"])
        assert other.notes.unsent("same") == "r-1"
        one.notes.settle(sent=["r-1", "r-3", "never noted"])
        assert one.rows("unsent_responses") == []


def test_a_request_is_recognised_for_an_hour_and_then_removed(one: Server) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        one.append(one.notes.note("r-1", "f"))
        clock.tick(UNSENT_SECONDS_MAX)
        assert one.notes.unsent("f") == "r-1"
        clock.tick(1)
        assert one.notes.unsent("f") is None
        one.notes.settle(sent=["another"])
        assert one.rows("unsent_responses") == []


def test_one_transaction_settles_everything_and_none_is_begun_for_nothing(
    one: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.append(one.notes.claim(*PLACE), one.notes.claim(STREAM, "runs"), one.notes.note("r-1", "f"))
    write, written = one.database.write, []

    def counted(work: Callable[..., Any]) -> Any:
        written.append(work)
        return write(work)

    monkeypatch.setattr(one.database, "write", counted)
    one.notes.settle()
    assert written == []
    one.notes.settle(sent=["r-1"], ended=[PLACE])
    assert len(written) == 1
    assert one.rows("unsent_responses") == []
    assert [row[:2] for row in one.rows()] == [(STREAM, "runs")]


def test_without_its_rows_everything_goes_on(one: Server, other: Server) -> None:
    one.append(one.notes.claim(*PLACE), one.notes.note("r-1", "f"))
    for table in ("exchange_claims", "unsent_responses"):
        one.database.execute(f"DELETE FROM {table}")
    one.extend()
    assert one.notes.unsent("f") is None
    assert one.notes.abandoned(10) == []
    one.notes.settle(sent=["r-1"], ended=[PLACE])
    one.notes.release_all()
    assert one.rows() == []
    assert other.notes.hold(*PLACE)
    assert list(one.journal.upkeep.check(lambda done, total: None)) == []


def test_a_copy_of_the_ledger_has_the_claims_and_the_notes(one: Server, tmp_path: Any) -> None:
    one.append(one.notes.claim(*PLACE), one.notes.note("r-1", "f"))
    one.journal.upkeep.copy_to(f"sqlite:///{tmp_path / 'copy.db'}", lambda done, total: None)
    copy = Server(f"sqlite:///{tmp_path / 'copy.db'}")
    assert (copy.rows(), copy.rows("unsent_responses")) == (one.rows(), one.rows("unsent_responses"))
    copy.journal.close()


def test_a_tenant_with_many_abandoned_exchanges_does_not_keep_others_waiting(one: Server) -> None:
    for number in range(30):
        one.append(one.notes.claim(f"conversation:tenant:giant/{number:02}", f"exchange-{number:02}"))
    one.append(one.notes.claim("conversation:tenant:small/k", "exchange-small"))
    one.notes.release_all()
    found = one.notes.abandoned(4)
    assert ("conversation:tenant:small/k", "exchange-small") in found[:2]
    assert len(found) == 4
    assert len(one.notes.abandoned(100)) == 31
