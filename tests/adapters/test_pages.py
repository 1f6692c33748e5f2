"""Pages of failures, runs and exchanges hold what the whole list holds, each item once, on each database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadledger.adapters.sql.views import run_pages
from threadledger.domain.conversation import Conversation, events, fold_exchanges, stream_of
from threadledger.domain.conversation.run_filters import ExchangeFilter, RunFilter
from threadledger.domain.errors import InvalidInput
from threadledger.domain.ids import new_id
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.ledger import AsyncLedger, Ledger
from threadledger.domain.ledger.pages import Page, cursor_of, place_in

BEGINNING = datetime(2026, 11, 22, 12, tzinfo=UTC)
ACTORS = [None, "ann", "cli:bob"]
KEYS = ["one", "two"]

STEPS = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 5), st.sampled_from(["chat", "responses"])),
    st.tuples(st.just("complete"), st.integers(0, 12), st.none()),
    st.tuples(st.just("fail"), st.integers(0, 12), st.none()),
    st.tuples(st.just("fall back"), st.integers(0, 12), st.none()),
    st.tuples(st.just("say"), st.none(), st.none()),
)
LOGS = st.lists(st.tuples(STEPS, st.integers(0, 3)), min_size=1, max_size=40)
"""What happens, and how many seconds after the beginning."""

FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "since": st.integers(0, 4).map(lambda second: BEGINNING + timedelta(seconds=second)),
        "until": st.integers(0, 4).map(lambda second: BEGINNING + timedelta(seconds=second)),
        "key": st.sampled_from([*KEYS, "nobody"]),
        "actor": st.sampled_from(["ann", "nobody"]),
    },
)


def event_of(step: Any, common: dict[str, Any], started: int) -> events.Event:
    match step:
        case ("start", number, backend):
            made = {"run_id": f"run-{started:02}", "exchange_id": f"x{number}", "backend": backend}
            return events.RunStarted(attempt=1, model="m", actor=ACTORS[started % 3], **made, **common)
        case ("complete", number, _):
            return events.RunCompleted(run_id=f"run-{number:02}", duration_seconds=1.5, **common)
        case ("fail", number, _):
            return events.RunFailed(run_id=f"run-{number:02}", status="failed", code="server_error", **common)
        case ("fall back", number, _):
            backends = {"from_backend": "responses", "to_backend": "chat", "reason": "no", "dropped": ["tool:a"]}
            return events.FallbackUsed(exchange_id="any", failed_run_id=f"run-{number:02}", **backends, **common)
    return events.MessageJournaled(message_id=new_id(), role="user", content="word", **common)


def append(ledger: Ledger, log: list[Any]) -> None:
    """Write a log event by event; an exchange is in one of the conversations, and so are its runs."""
    mapper, versions, started, places = EventMapper(PlainJSON()), Counter[str](), 0, dict[str, str]()
    for key in KEYS:
        ledger.journal.store(Conversation.start(key))
        versions[key] = 1
    for step, seconds in log:
        name = f"x{step[1]}" if step[0] == "start" else f"run-{step[1] or 0:02}"
        key = KEYS[step[1] % 2] if step[0] == "start" else places.get(name, KEYS[0])
        versions[key] += 1
        common = {"originator_id": stream_of(key), "originator_version": versions[key], "event_id": new_id()}
        event = event_of(step, common | {"timestamp": BEGINNING + timedelta(seconds=seconds)}, started)
        if isinstance(event, events.RunStarted):
            places[event.run_id], started = key, started + 1
        ledger.journal.recorder.insert_events([mapper.to_stored_event(event)])


def every_page(read: Callable[..., Any], limit: int) -> list[list[Any]]:
    """Return all pages, the newest first."""
    pages, after = [], None
    while True:
        page = read(limit=limit, after=after)
        pages.append(list(page))
        after = page.cursor
        assert len(pages) < 100, "the pages do not end"
        assert len(page) == limit or after is None
        if after is None:
            return pages


def joined(pages: list[list[Any]]) -> list[Any]:
    return [each for page in reversed(pages) for each in page]


CASES = given(
    log=LOGS,
    wanted=FILTERS,
    state=st.sampled_from([None, "open", "completed", "failed"]),
    unanswered=st.sampled_from([None, True, False]),
    limit=st.integers(1, 5),
    rows=st.sampled_from([1, 2, 1_000]),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@CASES
def test_on_sqlite_pages_together_are_the_fold_of_the_log(tmp_path: Any, open_store_on: Any, **case: Any) -> None:
    assert_pages_are_the_fold(f"sqlite:///{tmp_path / new_id()}.db", open_store_on, **case)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each creates all tables
@CASES
def test_on_postgresql_pages_together_are_the_fold_of_the_log(
    new_postgres_url: Any, open_store_on: Any, **case: Any
) -> None:
    assert_pages_are_the_fold(new_postgres_url(), open_store_on, **case)


def assert_pages_are_the_fold(
    url: str, open_store_on: Any, log: Any, wanted: Any, state: Any, unanswered: Any, limit: int, rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patched, open_store_on(url) as ledger:
        patched.setattr(run_pages, "PAGE_RUNS", rows)
        append(ledger, log)
        folded = fold_exchanges(event for _, event in ledger.journal.logged())
        order = (lambda each: each.version) if "key" in wanted else (lambda each: each.started_at)
        runs = sorted(filter(RunFilter(**wanted, state=state), folded.runs.values()), key=order)
        assert ledger.runs(**wanted, state=state) == runs
        assert joined(every_page(lambda **page: ledger.runs(**wanted, state=state, **page), limit)) == runs
        chosen = ExchangeFilter(**wanted, unanswered=unanswered)
        exchanges = sorted(filter(chosen, folded.by_id.values()), key=lambda each: order(each.runs[0]))
        found = every_page(lambda **page: ledger.exchanges(**wanted, unanswered=unanswered, **page), limit)
        assert joined(found) == exchanges
        failures = [each for each in folded.failures() if wanted.get("actor") in {None, each.actor}]
        pages = every_page(lambda **page: ledger.failures(actor=wanted.get("actor"), **page), limit)
        assert joined(pages) == failures


@pytest.fixture
def ledger(open_any_store: Callable[[], Ledger]) -> Ledger:
    return six_runs(open_any_store())


@pytest.fixture
def local(open_store: Callable[[], Ledger]) -> Ledger:
    """The same on SQLite alone, for what is refused before a database is asked."""
    return six_runs(open_store())


def six_runs(ledger: Ledger) -> Ledger:
    """Write six runs in two conversations, four of which failed."""
    steps = [(("start", number, "chat"), number) for number in range(6)]
    append(ledger, [*steps, *((("fail", number, None), number) for number in range(4))])
    return ledger


def test_a_run_that_comes_between_two_pages_changes_nothing_on_the_second(ledger: Ledger) -> None:
    first = ledger.failures(limit=2)
    with pytest.raises(TimeoutError), ledger.conversation("new").run("mine", "llama"):
        raise TimeoutError("too late")
    second = ledger.failures(limit=2, after=first.cursor)
    assert [each.run_id for each in (*second, *first)] == [f"run-{number:02}" for number in range(4)]
    assert second.cursor is None
    assert ledger.failures(limit=1)[0].key == "new"


def test_the_exchanges_of_a_key_are_both_a_page_and_exchanges_by_id(ledger: Ledger) -> None:
    found = ledger.exchanges("one")
    folded = ledger.journal.exchanges("one")
    assert (found.by_id, found.runs, found.cursor) == (folded.by_id, folded.runs, None)
    assert found[0] is next(iter(found.by_id.values()))
    assert len(found) == len(found[:]) == 3
    assert [each.run_id for each in found.failures()] == [each.run_id for each in folded.failures()]
    page = ledger.exchanges(key="one", limit=2)
    assert list(page.by_id) == [each.exchange_id for each in page] == ["x2", "x4"]
    assert page.cursor is not None
    assert [each.exchange_id for each in ledger.exchanges(limit=3)] == ["x3", "x4", "x5"]


def test_the_pages_of_one_conversation_are_its_own(ledger: Ledger) -> None:
    for key, expected in (("one", ["run-00", "run-02", "run-04"]), ("two", ["run-01", "run-03", "run-05"])):
        pages = every_page(lambda key=key, **page: ledger.runs(key=key, **page), 1)
        assert [[each.run_id for each in page] for page in pages] == [[run_id] for run_id in reversed(expected)]
        pages = every_page(lambda key=key, **page: ledger.exchanges(key, **page), 2)
        assert [each.runs[0].run_id for each in joined(pages)] == expected
    cursor = ledger.exchanges("one", limit=1).cursor
    with pytest.raises(InvalidInput, match="other filters"):
        ledger.exchanges("two", limit=1, after=cursor)


def test_exchanges_and_runs_are_chosen_by_how_they_ended(ledger: Ledger) -> None:
    with ledger.conversation("new").run("mine", "llama") as run:
        run.complete("Tomorrow.")
    assert [each.run_id for each in ledger.runs(state="open")] == ["run-04", "run-05"]
    assert [each.run_id for each in ledger.runs(state="failed", limit=2)] == ["run-02", "run-03"]
    assert [each.run_id for each in ledger.runs(state="completed")] == [run.run_id]
    assert [each.run_id for each in ledger.runs(model="llama")] == [run.run_id]
    assert [each.run_id for each in ledger.runs(backend="chat", actor="ann")] == ["run-01", "run-04"]
    assert list(ledger.exchanges(unanswered=False).by_id) == [run.exchange_id]
    assert len(ledger.exchanges(unanswered=True)) == 6


def test_a_run_on_a_page_is_known_with_its_whole_exchange(ledger: Ledger) -> None:
    chat = ledger.conversation("new")
    chat.append("user", "Hello.")
    with chat.exchange():
        with suppress(TimeoutError), chat.run("first", "llama"):
            raise TimeoutError("too late")
        with chat.run("second", "llama") as run:
            run.complete("Hi.")
    assert ledger.runs(limit=1) == [ledger.exchanges("new").runs[run.run_id]]
    (exchange,) = ledger.exchanges(limit=1)
    assert exchange == ledger.exchanges("new")[0]
    assert [each.next for each in exchange.runs] == ["fallback", "open"]


def test_a_page_without_a_limit_is_the_last_one(ledger: Ledger) -> None:
    assert [page.cursor for page in (ledger.failures(), ledger.runs(), ledger.exchanges())] == [None] * 3
    assert (len(ledger.runs()), len(ledger.runs(limit=6)), ledger.runs(limit=6).cursor) == (6, 6, None)
    assert ledger.runs(limit=0) == [] and ledger.runs(limit=0).cursor is None


def test_a_cursor_of_another_list_is_refused_in_one_sentence(local: Ledger) -> None:
    cursor = local.failures(limit=1).cursor
    assert local.failures(limit=1, after=cursor, since=BEGINNING)[0].run_id == "run-02"  # a span of time moves on
    for read in (
        lambda: local.failures(after=cursor, actor="ann"),
        lambda: local.failures(after=cursor, cause="rate_limited"),
        lambda: local.failures(after=cursor, unanswered=True),
        lambda: local.runs(after=cursor),
        lambda: local.exchanges(after=cursor),
        lambda: local.exchanges("one", after=cursor),
    ):
        with pytest.raises(InvalidInput, match="belongs to a list with other filters"):
            read()


@pytest.mark.parametrize(
    "given", ["", "p1.", "p1.e30", "p1.W10", "p1.!", "v1.x.1.00", "p1." + "W" * 5_000, 7, "p1.\ud800"]
)
def test_text_that_is_no_cursor_is_refused_in_one_sentence(local: Ledger, given: Any) -> None:
    with pytest.raises(InvalidInput, match="is not a cursor of this list"):
        local.runs(limit=1, after=given)


def test_a_sort_key_that_no_database_can_compare_is_no_cursor(local: Ledger) -> None:
    filters = {"list": "runs"}
    for sort_key in (("a\0b", 1), ("2026", 2**63), ("2026", True), ("2026",), (1, "2026"), ("2026", 1, 2)):
        with pytest.raises(InvalidInput, match="is not a cursor"):
            local.runs(after=cursor_of(sort_key, filters))
    assert place_in(cursor_of(("2026", 1), filters), filters, str, int) == ("2026", 1)
    assert place_in(None, filters, str, int) is None
    assert (Page([1], "c").cursor, Page([1, 2])[:1]) == ("c", [1])


def test_filters_that_are_no_texts_and_states_that_no_run_has_are_refused(local: Ledger) -> None:
    for wanted in ({"actor": 7}, {"limit": "2"}, {"limit": True}):
        for read in (local.runs, local.failures, local.exchanges):
            with pytest.raises(InvalidInput):
                read(**wanted)
    for read in (local.summary, local.failure_groups):
        with pytest.raises(InvalidInput, match="actor has type int"):
            read(actor=7)  # type: ignore[arg-type]  # as an app without a type checker may pass it
    with pytest.raises(InvalidInput, match="a run cannot be 'late': use one of open, completed, failed"):
        local.runs(state="late")


def test_an_awaited_ledger_has_the_same_pages(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with AsyncLedger(ledger) as awaited:
            first = await awaited.runs(limit=2)
            second = await awaited.runs(limit=2, after=first.cursor)
            assert [each.run_id for each in (*second, *first)] == ["run-02", "run-03", "run-04", "run-05"]
            assert len(await awaited.exchanges(unanswered=True)) == 6
            assert (await awaited.failures(limit=1)).cursor is not None

    asyncio.run(scenario())
