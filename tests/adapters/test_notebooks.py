"""The notebook of threads: who may write to one, how far it holds the journal, and which writes may still land there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from threadledger.adapters.sql import Database, Factory, SqlMirrorHeads
from threadledger.domain.ids import now
from threadledger.domain.journal import Also, Appending, Journal
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import Doubt, MirrorHead, ThreadItem

STREAM, MIRROR, THREAD = "conversation:k", "conversations", "conv_1"
SOON = timedelta(minutes=10)


def doubt(text: str, *, asked: bool = False) -> Doubt:
    sent = ThreadItem("message", "user", text, message_id="m1")
    return Doubt.of([sent], "2026-11-22T12:00:00.000000Z", asked=asked)


DOUBTS = (doubt("Where is it?", asked=True), doubt("half \ud800 and nul \0"))


@pytest.fixture
def database(any_db_url: str) -> Iterator[Database]:
    database = Database(any_db_url)
    with Ledger(Journal(Factory(database=database))):
        yield database


@pytest.fixture
def heads(database: Database) -> SqlMirrorHeads:
    return SqlMirrorHeads(database)


def in_a_commit(heads: SqlMirrorHeads, also: Also) -> None:
    heads._database.group.append([], lambda _: Appending(), also)


def linked(heads: SqlMirrorHeads, head: MirrorHead) -> None:
    in_a_commit(heads, heads.written(STREAM, MIRROR, head))


def claim(heads: SqlMirrorHeads, holder: str = "me", thread_id: str = THREAD) -> MirrorHead | None:
    return heads.claim(STREAM, MIRROR, thread_id, holder, now() + SOON)


def test_a_thread_that_was_never_noted_is_unsettled_and_in_no_doubt(heads: SqlMirrorHeads) -> None:
    assert claim(heads) == MirrorHead(THREAD, 0, settled=False, doubts=())


@pytest.mark.parametrize("settled", [True, False])
def test_what_was_noted_of_a_thread_comes_back_with_its_doubts_in_their_order(
    heads: SqlMirrorHeads, settled: bool
) -> None:
    noted = MirrorHead(THREAD, 7, settled, DOUBTS)
    linked(heads, noted)
    assert claim(heads) == noted


def test_a_claim_leaves_the_thread_unsettled_and_keeps_its_doubts(heads: SqlMirrorHeads) -> None:
    linked(heads, MirrorHead(THREAD, 7, settled=True, doubts=DOUBTS))
    claim(heads)
    assert claim(heads) == MirrorHead(THREAD, 7, settled=False, doubts=DOUBTS, left_by="me")


def test_giving_a_thread_back_keeps_its_doubts(heads: SqlMirrorHeads) -> None:
    linked(heads, MirrorHead(THREAD, 7, settled=True, doubts=DOUBTS))
    claim(heads)
    heads.release(STREAM, MIRROR, "me")
    assert claim(heads, "another") == MirrorHead(THREAD, 7, settled=False, doubts=DOUBTS)


def test_a_thread_is_given_back_with_new_doubts_where_there_are_some(heads: SqlMirrorHeads) -> None:
    linked(heads, MirrorHead(THREAD, 7, settled=True, doubts=DOUBTS))
    claim(heads)
    heads.release(STREAM, MIRROR, "another", ())
    heads.release(STREAM, MIRROR, "me", DOUBTS[1:])
    assert claim(heads) == MirrorHead(THREAD, 7, settled=False, doubts=DOUBTS[1:])


def test_a_claim_tells_who_stopped_in_the_middle(heads: SqlMirrorHeads) -> None:
    heads.claim(STREAM, MIRROR, THREAD, "killed", now() - timedelta(seconds=1))
    head = claim(heads)
    assert head is not None
    assert head.left_by == "killed"


def test_a_head_is_noted_with_the_doubts_that_it_is_given_and_no_others(heads: SqlMirrorHeads) -> None:
    linked(heads, MirrorHead(THREAD, 7, settled=True, doubts=DOUBTS))
    linked(heads, MirrorHead(THREAD, 8, settled=True, doubts=DOUBTS[1:]))
    assert claim(heads) == MirrorHead(THREAD, 8, settled=True, doubts=DOUBTS[1:])


def test_another_thread_is_not_in_the_doubts_of_the_one_before(heads: SqlMirrorHeads) -> None:
    linked(heads, MirrorHead(THREAD, 7, settled=True, doubts=DOUBTS))
    assert claim(heads, thread_id="conv_2") == MirrorHead("conv_2", 0, settled=False, doubts=())


def test_a_holder_who_claims_again_renews_its_claim(heads: SqlMirrorHeads) -> None:
    linked(heads, MirrorHead(THREAD, 7, settled=True, doubts=DOUBTS))
    heads.claim(STREAM, MIRROR, THREAD, "me", now() - timedelta(seconds=1))
    assert claim(heads, "me") == MirrorHead(THREAD, 7, settled=False, doubts=DOUBTS, left_by="me")
    assert claim(heads, "another") is None


def test_a_claim_that_has_run_out_is_anybodys_and_its_holder_notes_nothing_any_more(heads: SqlMirrorHeads) -> None:
    heads.claim(STREAM, MIRROR, THREAD, "slow", now() - timedelta(seconds=1))
    assert claim(heads, "another") is not None
    heads.put(STREAM, MIRROR, MirrorHead(THREAD, 9, settled=True), "slow")
    heads.release(STREAM, MIRROR, "slow")
    assert claim(heads, "third") is None
    assert claim(heads, "another") == MirrorHead(THREAD, 0, settled=False, left_by="another")


def test_a_holder_that_comes_back_after_another_one_has_had_the_thread_undoes_nothing_that_is_known(
    heads: SqlMirrorHeads,
) -> None:
    heads.claim(STREAM, MIRROR, THREAD, "cut off", now() - timedelta(seconds=1))
    assert claim(heads, "another") is not None
    heads.put(STREAM, MIRROR, MirrorHead(THREAD, 9, settled=True, doubts=DOUBTS[:1]), "another")
    heads.put(STREAM, MIRROR, MirrorHead(THREAD, 8, settled=True), "cut off")
    assert claim(heads, "third") == MirrorHead(THREAD, 9, settled=True, doubts=DOUBTS[:1])
    heads.put(STREAM, MIRROR, MirrorHead(THREAD, 9, settled=True, doubts=DOUBTS[:1]), "third")
    heads.put(STREAM, MIRROR, MirrorHead(THREAD, 10, settled=True, doubts=DOUBTS[1:]), "cut off")
    found = claim(heads, "fourth")
    assert found is not None and (found.version, {*found.doubts}) == (10, {*DOUBTS})


def test_the_text_of_a_doubted_message_is_not_in_the_notebook(heads: SqlMirrorHeads, database: Database) -> None:
    linked(heads, MirrorHead(THREAD, 7, settled=True, doubts=(doubt("my card is 4111 1111"),)))
    ((kept,),) = database.query("SELECT doubts FROM mirror_heads")
    assert "4111" not in kept


def test_a_backup_keeps_the_doubts(heads: SqlMirrorHeads, database: Database, tmp_path: Path) -> None:
    noted = MirrorHead(THREAD, 7, settled=True, doubts=DOUBTS)
    linked(heads, noted)
    with Ledger(Journal(Factory(database=database))) as ledger:
        ledger.back_up(tmp_path / "backup.db")
    copied = Database(f"sqlite:///{tmp_path / 'backup.db'}")
    assert claim(SqlMirrorHeads(copied)) == noted
    copied.close()


def test_a_thread_that_was_just_made_is_noted_as_empty(heads: SqlMirrorHeads) -> None:
    in_a_commit(heads, heads.begun(STREAM, MIRROR, THREAD))
    assert claim(heads) == MirrorHead(THREAD, 0, settled=True)


def test_whoever_has_taken_a_new_thread_before_it_was_noted_keeps_it(heads: SqlMirrorHeads) -> None:
    claim(heads, "whoever was quicker")
    in_a_commit(heads, heads.begun(STREAM, MIRROR, THREAD))
    assert claim(heads, "the next one") is None


def test_what_was_written_to_a_new_thread_before_it_was_noted_is_not_forgotten(heads: SqlMirrorHeads) -> None:
    claim(heads, "whoever was quicker")
    heads.put(STREAM, MIRROR, MirrorHead(THREAD, 7, settled=True), "whoever was quicker")
    in_a_commit(heads, heads.begun(STREAM, MIRROR, THREAD))
    assert claim(heads) == MirrorHead(THREAD, 7, settled=True)
