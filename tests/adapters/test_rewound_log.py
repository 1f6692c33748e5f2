"""A log that was rewound: no follower misses an event without being informed, and nothing lost is taken for stored."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import threadledger
from threadledger.adapters.sql import SqlMirrorHeads
from threadledger.adapters.sql.subscription import LogPages
from threadledger.adapters.sql.views.catching_up import Generations, Projection
from threadledger.domain.conversation import FailureFilter, text_message
from threadledger.domain.errors import InvalidInput, LogRewound
from threadledger.domain.ids import new_id, now
from threadledger.domain.journal import Appending, LogCursor, ReadTrail
from threadledger.domain.journal.cursor import POSITION_MAX
from threadledger.domain.ledger import AsyncLedger, Ledger, follow_failures
from threadledger.domain.threads import MirrorHead

from .writing import query, rewind, stored_events

POSITIONS = st.integers(0, POSITION_MAX)
CURSORS = st.builds(LogCursor, POSITIONS, st.binary(min_size=8, max_size=8), st.builds(new_id))


# Cursors are stable text


@given(CURSORS)
def test_a_cursor_is_equal_after_a_round_trip_through_its_text(cursor: LogCursor) -> None:
    assert LogCursor.parse(str(cursor)) == cursor


@given(POSITIONS)
def test_a_position_is_a_cursor_that_is_not_checked(position: int) -> None:
    assert LogCursor.parse(position) == LogCursor.parse(str(position)) == LogCursor(position)


def test_the_form_of_a_cursor_is_that_of_the_first_version() -> None:
    text = "v1.0193f5a0-1c2d-7abc-8def-0123456789ab.150.00ff10203040506a"
    ledger_id = "0193f5a0-1c2d-7abc-8def-0123456789ab"
    assert LogCursor.parse(text) == LogCursor(150, bytes.fromhex("00ff10203040506a"), ledger_id)


@given(
    st.text() | st.builds("".join, st.lists(st.sampled_from(["v1", ".", "7", "ab", "-1", "٣", "\n"]))) | st.integers()
)
@example("v1.x.1.00ff10203040506a\n")
@example("v1.x.99999999999999999999.00ff10203040506a")
@example(f"{POSITION_MAX + 1}")
@example("7" * 5_000)
def test_any_other_text_is_refused_in_one_sentence(given: str | int) -> None:
    try:
        assert str(LogCursor.parse(given)).lstrip("0") == str(given).lstrip("0")
    except InvalidInput as error:
        assert "is neither a cursor nor a position" in str(error)
        assert len(str(error)) < 600


@given(st.integers(0, 200), st.integers(0, 220), st.integers(1, 9))
def test_what_a_follower_has_in_common_with_the_log_is_never_overstated(read: int, kept: int, first: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threadledger.domain.journal.cursor.TRAIL_RECENT_EVENTS", 8)
        patch.setattr("threadledger.domain.journal.cursor.TRAIL_OLDER_EVENTS", 4)
        trail, last = ReadTrail(), first + read - 1
        for position in range(first, last + 1):
            trail.extend([(position, b"")])
        assert trail.last == ((last, b"") if read else None)
        common = trail.common(lambda position, _: position <= kept)
        remembered = [*trail._older, *trail._recent]
        assert len(remembered) <= 4 + 2 * 8
        known = [position for position, _ in remembered if position <= kept]
        assert common == (known[-1] if known else 0 if read and first == 1 else None)
        assert kept <= last - 8 or common in {min(kept, last), None, 0}


# Followers


def write(ledger: Ledger, texts: str, upto: int) -> None:
    """Append messages until the log has an event at this position."""
    start = ledger.journal.recorder.max_notification_id() or 0
    ledger.conversation("k").extend(
        {"role": "user", "content": f"{texts} {position}"} for position in range(start + (start == 0), upto)
    )


def ids(events: Iterator[Any] | list[Any]) -> list[tuple[int, str]]:
    return [(each.position, each.event.event_id) for each in events]


def stored_ids(url: str, after: int, types: tuple[str, ...] = ()) -> list[tuple[int, str]]:
    events = stored_events(url)
    return [
        (each.position, each.event_id)
        for each in events
        if each.position > after and (not types or each.topic in types)
    ]


LOOKS_MAX = 100
"""Number of looks at the log after which a reader that should have raised an error or ended fails its test."""


@pytest.fixture(autouse=True)
def _no_reader_looks_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.subscription.FOLLOW_SECONDS", 0)
    for looking in (LogPages, Generations):
        monkeypatch.setattr(looking, "look", counting(looking.look))


def counting(look: Callable[[Any], Any]) -> Callable[[Any], Any]:
    looks: list[Any] = []

    def look_and_count(looking: Any) -> Any:
        looks.append(looking)
        assert len(looks) < LOOKS_MAX, "it looks again and again"
        return look(looking)

    return look_and_count


@pytest.fixture
def ledger(open_any_store: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr("threadledger.adapters.sql.subscription.SUBSCRIPTION_PAGE_EVENTS", 30)
    opened = open_any_store()
    write(opened, "old", 100)
    return opened


TYPES = pytest.mark.parametrize("types", [(), ("MessageJournaled",)], ids=["all events", "some events"])


@TYPES
@pytest.mark.parametrize("regrown", [50, 70, 100, 150], ids="to {}".format)
def test_a_follower_is_informed_with_the_last_common_position_and_then_misses_nothing(
    ledger: Ledger, any_db_url: str, types: tuple[str, ...], regrown: int
) -> None:
    following = ledger.events(follow=True, types=types)
    seen = ids(islice(following, len(stored_ids(any_db_url, 0, types))))
    assert seen[-1][0] == 100
    rewind(any_db_url, 50)
    write(ledger, "new", regrown)
    with pytest.raises(LogRewound, match="--after 50") as caught:
        next(following)
    assert (caught.value.position, caught.value.common) == (100, 50)
    write(ledger, "new", 150)
    kept = [each for each in seen if each[0] <= 50]
    again = ledger.events(after=caught.value.common or 0, types=types, follow=True)
    new = ids(islice(again, len(stored_ids(any_db_url, 50, types))))
    assert kept + new == stored_ids(any_db_url, 0, types)


def test_a_follower_of_rare_events_is_informed_that_others_which_it_passed_were_replaced(
    ledger: Ledger, any_db_url: str
) -> None:
    following = ledger.events(follow=True, types=["ConversationStarted"])
    assert next(following).position == 1
    rewind(any_db_url, 50)
    ledger.conversation("new").append("user", "hello")
    write(ledger, "new", 150)
    with pytest.raises(LogRewound) as caught:
        next(following)
    again = ledger.events(after=caught.value.common or 0, types=["ConversationStarted"])
    assert [each.position for each in again] == [51]


@pytest.mark.parametrize("wanted", [{"follow": True}, {}, {"key": "k"}], ids=str)
def test_a_reader_between_two_pages_is_informed(ledger: Ledger, any_db_url: str, wanted: dict[str, Any]) -> None:
    following = ledger.events(**wanted)
    assert [each.position for each in islice(following, 75)] == list(range(1, 76))
    rewind(any_db_url, 50)
    write(ledger, "new", 150)
    rest = []
    with pytest.raises(LogRewound) as caught:
        rest += [each.position for each in islice(following, 15)]  # of the page that was read before
        next(following)
    assert rest == list(range(76, 91))
    assert (caught.value.position, caught.value.common) == (90, 50)


def test_a_log_that_is_rewound_between_the_look_at_its_end_and_the_page_is_noticed(
    ledger: Ledger, any_db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = ledger.events(follow=True)
    assert len(list(islice(following, 100))) == 100
    write(ledger, "old", 120)
    look = LogPages.look

    def look_and_lose(pages: LogPages) -> int:
        end = look(pages)
        rewind(any_db_url, 50)
        write(ledger, "new", 150)
        return end

    monkeypatch.setattr(LogPages, "look", look_and_lose)
    with pytest.raises(LogRewound) as caught:
        next(following)
    assert caught.value.common == 50


@TYPES
def test_a_kept_cursor_continues_where_it_was_and_detects_a_rewound_log(
    ledger: Ledger, any_db_url: str, types: tuple[str, ...]
) -> None:
    cursors = {each.position: each.cursor for each in ledger.events()}
    for key in (None, "k"):
        assert [each.cursor for each in ledger.events(key=key)] == list(cursors.values())
    rewind(any_db_url, 50)
    for regrown in (50, 80, 100, 150):
        write(ledger, "new", regrown)
        for key in (None, "k"):
            found = ids(ledger.events(after=cursors[50], types=types, key=key))
            assert found == stored_ids(any_db_url, 50, types)
            with pytest.raises(
                LogRewound, match=f"at most {min(regrown, 99)}: continue from an earlier cursor"
            ) as caught:
                list(ledger.events(after=cursors[100], types=types, key=key))
            assert (caught.value.position, caught.value.common) == (100, None)
        with pytest.raises(LogRewound):
            next(ledger.events(after=cursors[100], types=types, follow=True))
    assert ids(ledger.events(after=100)) == stored_ids(any_db_url, 100)  # a position is not checked


def test_a_follower_is_checked_without_a_query_of_its_own(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, asked = LogPages(ledger.journal.recorder._database, 0), []  # type: ignore[attr-defined] # as of the SQL recorder
    database, ask = pages._database, pages._database.query
    monkeypatch.setattr(database, "query", lambda *query: asked.append(query) or ask(*query))
    while pages.after < pages.look():
        pages.read(100)
    pages.look()
    waited = 1 if database.kind.flush else 0  # once: that the last event is still there after waiting for durability
    assert len(asked) == 4 * 2 + 2 + waited  # the end and a page, four times; then the end alone


def test_the_awaited_ledger_detects_a_rewound_log(ledger: Ledger, any_db_url: str) -> None:
    cursor = list(ledger.events())[-1].cursor
    rewind(any_db_url, 50)

    async def read(follow: bool) -> None:
        async for _ in AsyncLedger(ledger).events(after=cursor, follow=follow):
            pass

    for follow in (False, True):
        with pytest.raises(LogRewound):
            asyncio.run(read(follow))


def test_a_follower_of_failures_is_informed(open_any_store: Callable[[], Ledger], any_db_url: str) -> None:
    ledger = open_any_store()
    with pytest.raises(RuntimeError), ledger.conversation("k").run("own", "m"):
        raise RuntimeError("no")
    following = follow_failures(ledger.journal, FailureFilter())
    next(following)
    rewind(any_db_url, 1)
    write(ledger, "new", 20)
    with pytest.raises(LogRewound, match=r"list them again with: threadledger audit failures$"):
        next(following)


def test_a_standby_that_lags_behind_a_cursor_is_waited_for(
    ledger: Ledger, any_db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = list(ledger.events())[-1]
    monkeypatch.setattr(LogPages, "_is_standby", lambda pages: True)
    rewind(any_db_url, 50)
    pages = LogPages(ledger.journal.recorder._database, last.cursor)  # type: ignore[attr-defined] # as of the SQL recorder
    assert pages.look() == 50
    assert list(ledger.events(after=last.cursor)) == []
    write(ledger, "new", 150)
    with pytest.raises(LogRewound):
        pages.look()


@TYPES
def test_events_that_the_answering_server_lacks_since_the_look_are_neither_missed_nor_called_damage(
    ledger: Ledger, any_db_url: str, monkeypatch: pytest.MonkeyPatch, types: tuple[str, ...]
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.subscription.PAGES_AT_ONCE", 1)
    pages = LogPages(ledger.journal.recorder._database, 0, types)  # type: ignore[attr-defined] # as of the SQL recorder
    assert pages.look() == 100
    while pages.after < 60:
        pages.read(60)
    rewind(any_db_url, 80)
    while pages.after < 80:
        pages.read(100)
    assert [pages.read(100), pages.after] == [[], 80]
    rewind(any_db_url, 70)
    monkeypatch.setattr(LogPages, "_is_standby", lambda pages: True)
    assert [pages.read(100), pages.after] == [[], 80]
    monkeypatch.setattr(LogPages, "_is_standby", lambda pages: False)
    with pytest.raises(LogRewound) as caught:
        pages.read(100)
    assert caught.value.common == 70


def test_a_cursor_is_valid_in_each_copy_of_its_ledger_and_in_no_other_ledger(
    ledger: Ledger, open_store_on: Callable[..., Ledger], tmp_path: Path
) -> None:
    events = list(ledger.events())
    ledger.back_up(tmp_path / "backup.db")
    ledger.copy_to(f"sqlite:///{tmp_path / 'copy.db'}")
    other = open_store_on(f"sqlite:///{tmp_path / 'other.db'}")
    write(other, "other", 100)
    for name in ("backup.db", "copy.db"):
        copy = open_store_on(f"sqlite:///{tmp_path / name}")
        assert [each.cursor for each in copy.events(after=events[40].cursor)] == [each.cursor for each in events[41:]]
    for follow in (False, True):
        with pytest.raises(InvalidInput, match="belongs to another ledger"):
            next(other.events(after=events[40].cursor, follow=follow))


def test_a_restored_file_is_noticed_by_the_next_process(db_path: Path, db_url: str) -> None:
    backup = db_path.with_name("backup.db")
    with threadledger.open(db_url) as ledger:
        write(ledger, "old", 50)
        ledger.back_up(backup)
        write(ledger, "old", 100)
        cursor = list(ledger.events())[-1].cursor
        assert len(ledger.conversations()) == 1
    shutil.copy(backup, db_path)
    with threadledger.open(db_url) as ledger:
        write(ledger, "new", 150)
        with pytest.raises(threadledger.LogRewound):
            list(ledger.events(after=cursor))
        assert [each.messages for each in ledger.conversations()] == [149]


# Views, and the state of threads


def searched(ledger: Ledger) -> dict[str, int]:
    hits = ledger.journal.views.hits  # type: ignore[attr-defined] # as of the SQL views
    return {word: len(hits(word)) for word in ("old", "new")}


def fail(ledger: Ledger, text: str) -> None:
    with pytest.raises(RuntimeError), ledger.conversation(text).run("own", "m"):
        raise RuntimeError(text)


@pytest.mark.parametrize("regrown", [50, 70, 104, 150], ids="to {}".format)
def test_views_are_rebuilt_from_a_rewound_log(
    ledger: Ledger, any_db_url: str, caplog: pytest.LogCaptureFixture, regrown: int
) -> None:
    fail(ledger, "lost")
    assert searched(ledger) == {"old": 99, "new": 0}
    assert [each.key for each in ledger.failures()] == ["lost"]
    assert [each.key for each in ledger.conversations()] == ["lost", "k"]
    rewind(any_db_url, 50)
    write(ledger, "new", regrown)
    problems = {(each.subject, each.problem.split()[0]) for each in ledger.check()}
    assert problems >= {("view", "audit"), ("view", "conversations"), ("view", "search")}
    with caplog.at_level(logging.WARNING, "threadledger"):
        assert searched(ledger) == {"old": 49, "new": regrown - 50}
        assert ledger.failures() == []
        assert [(each.key, each.messages) for each in ledger.conversations()] == [("k", regrown - 1)]
    logged = [record.getMessage().partition(":")[0] for record in caplog.records if record.name == "threadledger"]
    assert logged == [f"rebuilding the view {name}" for name in ("search", "audit", "conversations")]
    assert [each for each in ledger.check() if each.subject in {"view", "thread"}] == []
    assert query(any_db_url, "SELECT count(*) FROM tracking") == [(3,)]  # what was built before was dropped


def test_a_view_of_an_earlier_version_that_is_ahead_of_the_log_is_rebuilt(ledger: Ledger, any_db_url: str) -> None:
    assert [each.messages for each in ledger.conversations()] == [99]
    ledger.journal.recorder._database.execute("UPDATE tracking SET leaf = NULL")  # type: ignore[attr-defined] # as above
    rewind(any_db_url, 50)
    assert [each.messages for each in ledger.conversations()] == [49]


@pytest.mark.parametrize("way", ["read", "rebuild"])
def test_a_batch_that_the_log_lost_before_it_is_written_is_read_again(
    ledger: Ledger, any_db_url: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    name = "_written" if way == "read" else "_refused"
    ended, lost = getattr(Projection, name), []

    def lose_first(projection: Projection, *batch: Any) -> None:
        if not lost:
            lost.append(rewind(any_db_url, 50))
            write(ledger, "new", 150)
        ended(projection, *batch)

    monkeypatch.setattr(Projection, name, lose_first)
    if way == "rebuild":
        ledger.rebuild_views(["search"])
    assert searched(ledger) == {"old": 49, "new": 100}
    assert lost


def test_a_view_that_the_log_lost_before_the_next_batch_is_read_is_not_advanced(
    ledger: Ledger, any_db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.views.catching_up.BATCH_EVENTS_MAX", 7)
    assert searched(ledger) == {"old": 99, "new": 0}
    write(ledger, "old", 101)
    read, lost = Projection._batch, []

    def lose_first(projection: Projection, *bounds: Any) -> Any:
        if not lost:
            lost.append(rewind(any_db_url, 50))
            write(ledger, "new", 150)
        return read(projection, *bounds[:1], replace(bounds[1], position=150), *bounds[2:])

    monkeypatch.setattr(Projection, "_batch", lose_first)
    assert searched(ledger) == {"old": 49, "new": 100}


def test_the_state_of_a_thread_from_a_lost_version_is_reported_and_the_thread_is_read(
    ledger: Ledger, any_db_url: str
) -> None:
    heads = SqlMirrorHeads(ledger.journal.recorder._database)  # type: ignore[attr-defined] # as above
    also = heads.written("conversation:k", "conversations", MirrorHead("conv_1", 100, settled=True))
    heads._database.group.append([], lambda _: Appending(), also)
    assert [each for each in ledger.check() if each.subject == "thread"] == []
    rewind(any_db_url, 50)
    (finding,) = (each for each in ledger.check() if each.subject == "thread")
    assert (finding.key, finding.version) == ("k", 100)
    assert [each.settled for each in ledger.journal.upkeep.noted_threads(["conversation:k"])] == [False]
    claimed = heads.claim("conversation:k", "conversations", "conv_1", "me", now())
    assert claimed == MirrorHead("conv_1", 0, settled=False)


# Workers


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_worker_whose_job_was_lost_ends_instead_of_doing_the_rest(
    open_ledger: Callable[..., Ledger], db_url: str, concurrency: int
) -> None:
    ledger = open_ledger()
    for number in range(12):
        ledger.conversation(f"k{number}").append("user", "hello")
    position = ledger.journal.recorder.max_notification_id() or 0
    plan = ledger.replay.plan_rebuild(to="conversations", fresh=True)
    done: list[Any] = []

    def lose_after_two(item: Any) -> None:
        done.append(item)
        if len(done) == 2:
            rewind(db_url, position)

    with pytest.raises(LogRewound, match=r"job .* is no longer in it"):
        plan.apply(progress=lose_after_two, concurrency=concurrency)
    assert concurrency > 1 or len(done) < 12
    assert {each.topic for each in stored_events(db_url) if each.position > position} <= {"ThreadRebuilt"}
    assert ledger.replay.jobs() == []


@pytest.mark.parametrize("regrown", [0, 5], ids="{} events later".format)
def test_an_answer_whose_question_was_lost_is_not_recorded_without_it(
    open_ledger: Callable[..., Ledger], db_url: str, regrown: int
) -> None:
    ledger = open_ledger()
    ledger.conversation("k").append("user", "hello")
    position = ledger.journal.recorder.max_notification_id() or 0
    answering = ledger.conversation("k").stream("lost question")
    next(answering)
    rewind(db_url, position)
    for number in range(regrown):
        ledger.journal.commit("k", lambda it, said=f"new {number}": it.journal(text_message("user", said)))
    with pytest.raises(LogRewound, match=r"run .* is no longer in it, so its result was not recorded"):
        list(answering)
    assert [each.topic for each in stored_events(db_url)[position:]] == ["MessageJournaled"] * regrown
