"""Groups of failures and summaries: what the view counts equals a plain fold over the events, after any prefix of the log."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from math import ceil

import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from threadledger.adapters.sql.views import catching_up as projection
from threadledger.domain.conversation import (
    Completion,
    Conversation,
    FailureFilter,
    Profile,
    RunPlan,
    events,
    fold_exchanges,
    stream_of,
    text_message,
)
from threadledger.domain.errors import GroupNotFound, InvalidInput
from threadledger.domain.failures import SUMMARY_BY, Failure, GroupName, GroupState
from threadledger.domain.failures.groups import TREND_PARTS, group_id
from threadledger.domain.ids import new_id, to_iso
from threadledger.domain.journal.rows import EventMapper, PlainJSON
from threadledger.domain.ledger import FailureGroups, follow_failures, memory_shown

BEGINNING = datetime(2026, 11, 22, 23, 58, tzinfo=UTC)
MESSAGES = [
    "Sorry, something went wrong.",
    "no thread 'thread_1' in 20 places",
    "no thread 'other' in 3 places",
    "odd \ud800 \0 one",
    None,
]
MOMENTS = st.integers(0, 7_200).map(lambda second: BEGINNING + timedelta(seconds=second))
ACTORS = [None, "ann", "cli:bob"]
USAGES = st.sampled_from([{}, {"input_tokens": 7, "output_tokens": 2}, {"input_tokens": "many"}, {"input_tokens": -1}])
HAPPENINGS = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(["x1", "x2", "x3"]), st.sampled_from(["chat", "responses"])),
    st.tuples(st.just("complete"), st.integers(0, 6), USAGES),
    st.tuples(st.just("fail"), st.integers(0, 6), st.sampled_from(MESSAGES)),
    st.tuples(st.just("fall back"), st.integers(0, 6), st.none()),
    st.tuples(st.just("abandon"), st.sampled_from(["x1", "x2", "x3"]), st.none()),
    st.tuples(st.just("describe"), st.sampled_from([None, "", "anna", "ben"]), st.none()),
    st.tuples(st.just("delete"), st.none(), st.none()),
)
STARTS = st.tuples(st.just("start"), st.sampled_from(["x1", "x2", "x3"]), st.sampled_from(["chat", "responses"]))


def logs_of(happenings, min_size, max_size):
    happened = st.tuples(happenings, st.sampled_from(["one", "two"]), MOMENTS, st.booleans())
    return st.lists(happened, min_size=min_size, max_size=max_size)


LOGS = st.tuples(logs_of(STARTS, 1, 7), logs_of(HAPPENINGS, 0, 25)).map(lambda parts: parts[0] + parts[1])
"""Some runs begin, so that what comes mostly has a run to happen to."""


def event_of(happening, common, started):
    match happening:
        case ("start", exchange_id, backend):
            made = {"run_id": f"run-{started:03}", "exchange_id": exchange_id, "attempt": 1, "backend": backend}
            profile = [None, "p1", "p2"][started % 3]
            return events.RunStarted(
                model=f"m{started % 2}",
                profile_hash=profile,
                shadow=started % 5 == 4,
                question_answered=started % 7 == 6,
                actor=ACTORS[started % 3],
                **made,
                **common,
            )
        case ("complete", number, usage):
            return events.RunCompleted(run_id=f"run-{number:03}", usage=usage, duration_seconds=number / 2, **common)
        case ("fail", number, message):
            code = ["server_error", None][number % 2]
            facts = {"status": "failed", "code": code, "message": message, "duration_seconds": number / 3}
            return events.RunFailed(run_id=f"run-{number:03}", **facts, **common)
        case ("fall back", number, _):
            backends = {"from_backend": "responses", "to_backend": "chat", "reason": "it failed"}
            return events.FallbackUsed(exchange_id="any", failed_run_id=f"run-{number:03}", **backends, **common)
        case ("abandon", exchange_id, _):
            return events.ExchangeAbandoned(exchange_id=exchange_id, **common)
        case ("describe", owner, _):
            return events.ConversationDescribed(title="Parcel", owner=owner, **common)
        case ("delete", _, _):
            return events.ConversationDeleted(**common)
    raise AssertionError(happening)


def append(ledger, log, read=lambda: None):
    """Write a log as it is, one event after the other; `read` is called where the log says so."""
    mapper, versions, started = EventMapper(PlainJSON()), Counter(), 0
    for happening, key, at, looks in log:
        if key not in versions:
            ledger.journal.store(Conversation.start(key))
        versions[key] = max(versions[key], 1) + 1
        common = {"originator_id": stream_of(key), "originator_version": versions[key], "timestamp": at}
        event = event_of(happening, common | {"event_id": new_id()}, started)
        started += isinstance(event, events.RunStarted)
        ledger.journal.recorder.insert_events([mapper.to_stored_event(event)])
        if looks:
            read()


# Plain folds: what is counted, said once more and as simply as can be


def folded(ledger):
    return fold_exchanges(event for _, event in ledger.journal.logged())


def plain_groups(ledger, since, until, actor=None):
    found = {}
    for failure in folded(ledger).failures():
        if (since is None or failure.at >= since) and actor in {None, failure.actor}:
            found.setdefault(GroupName.of(failure.facts, failure.backend).id, []).append(failure)
    begin = since or min((each.at for group in found.values() for each in group), default=until)
    end = max([until, *(each.at for group in found.values() for each in group)])
    return {
        group: {
            "cause": failures[0].cause,
            "backend": failures[0].backend,
            "runs": len(failures),
            "conversations": len({each.key for each in failures}),
            "first_at": min(each.at for each in failures),
            "last_at": max(each.at for each in failures),
            **answered_of(failures),
            "trend": tuple(plain_trend([each.at for each in failures], begin, end)),
        }
        for group, failures in found.items()
    }


def answered_of(failures):
    exchanges = {each.exchange_id for each in failures}
    answered = {each.exchange_id for each in failures if not each.unanswered}
    counts = {"exchanges": len(exchanges), "answered": len(answered)}
    return counts | {"unanswered": len(exchanges - answered)}


def plain_trend(times, begin, end):
    part = max((end - begin) / TREND_PARTS, timedelta(microseconds=1))
    borders = [begin + part * number for number in range(1, TREND_PARTS)]
    if part >= timedelta(hours=6):
        borders = [each.replace(minute=0, second=0, microsecond=0) for each in borders]
    counts = Counter(next((n for n, border in enumerate(borders) if at < border), TREND_PARTS - 1) for at in times)
    return [counts[number] for number in range(TREND_PARTS)]


VALUES = {
    "cause": lambda run, failure: failure.cause.value if failure else None,
    "code": lambda run, failure: failure.facts.code if failure else None,
    "backend": lambda run, _: run.backend,
    "model": lambda run, _: run.model,
    "profile": lambda run, _: run.profile_hash,
    "actor": lambda run, _: run.actor,
    "day": lambda run, _: to_iso(run.started_at)[:10],
    "hour": lambda run, _: to_iso(run.started_at)[:13] + ":00:00Z",
    "conversation": lambda run, failure: run.key,
}


def plain_owner(ledger, run):
    """The owner that the conversation of a run had last."""
    owner = None
    for _, event in ledger.journal.logged():
        if event.originator_id != stream_of(run.key):
            continue
        if isinstance(event, events.ConversationDeleted):
            if event.originator_version > run.version:
                break
            owner = None
        elif isinstance(event, events.ConversationDescribed) and event.owner is not None:
            owner = event.owner or None
    return owner


def plain_summary(ledger, by, since, until, actor=None):
    exchanges = folded(ledger)
    failures = {each.run_id: each for each in exchanges.failures()}
    within = [
        run
        for run in exchanges.runs.values()
        if (since is None or run.started_at >= since)
        and (until is None or run.started_at <= until)
        and actor in {None, run.actor}
    ]
    rows = {}
    for run in within:
        if run.failure is not None or by not in {"cause", "code"}:
            value = plain_owner(ledger, run) if by == "owner" else VALUES[by](run, failures.get(run.run_id))
            rows.setdefault(value, []).append(run)
    return {value: plain_row(rows[value], len(within) if by in {"cause", "code"} else None, failures) for value in rows}


def plain_row(runs, all_runs, failures):
    failed = [failures[run.run_id] for run in runs if run.failure is not None]
    took = sorted(run.duration_seconds for run in runs if run.duration_seconds is not None)
    tokens = [
        [used for run in runs if run.completed and isinstance(used := run.completed.usage.get(name), int) and used >= 0]
        for name in ("input_tokens", "output_tokens")
    ]
    return {
        "runs": all_runs or len(runs),
        "failed": len(failed),
        "fallbacks": sum(each.next == "fallback" for each in failed),
        **answered_of(failed),
        "p50_seconds": took[ceil(0.5 * len(took)) - 1] if took else None,
        "p95_seconds": took[ceil(0.95 * len(took)) - 1] if took else None,
        "input_tokens": sum(tokens[0]),
        "output_tokens": sum(tokens[1]),
    }


WITH_A_DATABASE = [HealthCheck.function_scoped_fixture]
CASES = given(log=LOGS, since=st.none() | MOMENTS, until=st.none() | MOMENTS, batch=st.sampled_from([1, 3, 4_000]))
SHORT = example(log=[(("start", "x1", "chat"), "one", BEGINNING, True)], since=None, until=None, batch=1)

SAME_MOMENT = BEGINNING + timedelta(minutes=10)
TIED = example(  # in a part of an hour, each exchange and conversation counts where its last failure is: one of two equal times
    log=[
        *[(("start", "x1", "chat"), "one", SAME_MOMENT, False) for _ in range(3)],
        *[(("fail", number, "Sorry."), "one", SAME_MOMENT, False) for number in (0, 2)],
    ],
    since=BEGINNING + timedelta(minutes=5),
    until=None,
    batch=1,
)

MINUTES = (3, 10, 20, 30, 40)
BORDERS = (
    example(  # a period within an hour, whose borders are the times of runs: both count, and those beyond them do not
        log=[
            step
            for number, minute in enumerate(MINUTES)
            for step in (
                (("start", f"x{number}", "chat"), "one", BEGINNING + timedelta(minutes=minute), False),
                (("fail", number, "Sorry."), "one", BEGINNING + timedelta(minutes=minute), False),
            )
        ],
        since=BEGINNING + timedelta(minutes=MINUTES[1]),
        until=BEGINNING + timedelta(minutes=MINUTES[3]),
        batch=3,
    )
)


@settings(max_examples=30, suppress_health_check=WITH_A_DATABASE)
@CASES
@SHORT
@TIED
@BORDERS
def test_on_sqlite_what_is_counted_after_any_prefix_equals_a_plain_fold(
    tmp_path, open_store_on, log, since, until, batch
):
    assert_counted_like_a_plain_fold(
        lambda: f"sqlite:///{tmp_path / new_id()}.db", open_store_on, log, since, until, batch
    )


@settings(max_examples=8, suppress_health_check=WITH_A_DATABASE)  # each example creates all tables, which is slow here
@CASES
@SHORT
def test_on_postgresql_what_is_counted_after_any_prefix_equals_a_plain_fold(
    new_postgres_url, open_store_on, log, since, until, batch
):
    assert_counted_like_a_plain_fold(new_postgres_url, open_store_on, log, since, until, batch)


def assert_counted_like_a_plain_fold(new_url, open_store_on, log, since, until, batch):
    end = BEGINNING + timedelta(seconds=3_600)
    with pytest.MonkeyPatch.context() as patched, open_store_on(new_url()) as ledger:
        patched.setattr(projection, "BATCH_EVENTS_MAX", batch)

        def compare():
            views = ledger.journal.views
            for actor in (None, "ann", "nobody"):
                groups = {each.group: each for each in views.failure_groups(since, end, actor)}
                expected = plain_groups(ledger, since, end, actor)
                told = {
                    group: {name: getattr(each, name) for name in expected[group]} for group, each in groups.items()
                }
                assert told == expected
            for by in SUMMARY_BY:
                for actor in (None, "cli:bob"):
                    rows = views.summary(by, since, until, actor)
                    expected = plain_summary(ledger, by, since, until, actor)
                    assert {
                        row.value: {name: getattr(row, name) for name in expected[row.value]} for row in rows
                    } == expected
            days = Counter()
            for day, _, number in views.failure_days(since, until):
                days[day] += number
            assert days == {row.value: row.failed for row in views.summary("day", since, until) if row.failed}

        append(ledger, log, compare)
        compare()
        assert sum(each["parked"] for each in ledger.journal.views.status()) == 0


def test_a_failure_right_between_two_parts_of_a_trend_is_in_the_later_one(open_any_store):
    ledger = open_any_store()
    hours = [(number, BEGINNING + timedelta(hours=number)) for number in (0, 3, 11, 12)]
    starts = [(("start", "x1", "chat"), "one", at, False) for _, at in hours]
    fails = [(("fail", run, "no"), "one", at, False) for run, (_, at) in enumerate(hours)]
    append(ledger, [*starts, *fails])
    groups = ledger.journal.views.failure_groups(BEGINNING, BEGINNING + timedelta(hours=12))
    assert [sum(counts) for counts in zip(*(each.trend for each in groups), strict=True)] == [1, 0, 0, 1, *[0] * 7, 2]


def test_percentiles_are_durations_that_were_measured(open_any_store):
    ledger = open_any_store()
    starts = [(("start", "x1", "chat"), "one", BEGINNING, False)] * 7
    ends = [(("complete", run, {}), "one", BEGINNING, False) for run in range(7)]
    append(ledger, [*starts, *ends])
    (row,) = ledger.journal.views.summary("backend")
    assert (row.p50_seconds, row.p95_seconds) == (1.5, 3.0)


def test_only_a_run_that_another_backend_took_over_from_counts_as_a_fallback(open_any_store):
    ledger = open_any_store()
    happened = [
        (("start", "x1", "responses"), "one", BEGINNING, False),
        (("fail", 0, "no"), "one", BEGINNING, False),
        (("start", "x1", "responses"), "one", BEGINNING, False),  # the first is retried
        (("fail", 1, "no"), "one", BEGINNING, False),
        (("fall back", 1, None), "one", BEGINNING, False),
        (("start", "x1", "responses"), "one", BEGINNING, False),
        (("fail", 2, "no"), "one", BEGINNING, False),
        (("abandon", "x1", None), "one", BEGINNING, False),
    ]
    append(ledger, happened)
    (row,) = ledger.journal.views.summary("backend")
    assert (row.failed, row.fallbacks, row.answered) == (3, 1, 0)


def test_a_failure_that_comes_while_it_is_looked_is_told_once(open_any_store, monkeypatch):
    ledger = open_any_store()
    first = fail(ledger, "first")
    seen = list(folded(ledger).failures())
    coming = follow_failures(ledger.journal, FailureFilter())
    with monkeypatch.context() as patched:
        patched.setattr(ledger.journal.recorder, "max_notification_id", lambda: 0)  # it came after this was asked
        patched.setattr(ledger.journal.views, "failures", lambda wanted, limit: seen)
        assert next(coming).run_id == first.run_id
    second = fail(ledger, "second")
    assert next(coming).run_id == second.run_id
    coming.close()


# Groups, and what is decided about them

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def clock():
    with freeze_time(NOON) as frozen:
        yield frozen


def fail(ledger, key="k", text="no", backend="own"):
    with pytest.raises(RuntimeError), ledger.conversation(key).run(backend, "m") as run:
        raise RuntimeError(text)
    return run


def the_group(ledger):
    (group,) = ledger.failure_groups(states=GroupState)
    return group


def decisions(ledger):
    return [type(event).__name__ for event in ledger.journal.stream("audit:groups")]


def test_failures_that_say_the_same_but_for_a_number_are_one_group(open_any_store, clock):
    ledger = open_any_store()
    fail(ledger, "a", "no place for 17")
    clock.tick(60)
    fail(ledger, "b", "no place for 4")
    fail(ledger, "b", "something else")
    group = next(each for each in ledger.failure_groups() if "place" in each.message)
    assert group.as_json() == {
        "group": group_id("unknown", "own", "no place for <n>"),
        "cause": "unknown",
        "backend": "own",
        "message": "no place for <n>",
        "runs": 2,
        "conversations": 2,
        "first_at": "2026-11-22T12:00:00.000000Z",
        "last_at": "2026-11-22T12:01:00.000000Z",
        "answered": 0,
        "unanswered": 2,
        "advice": group.advice,
        "state": "open",
        "trend": [1, *[0] * 10, 1],
        "trend_since": "2026-11-22T12:00:00.000000Z",
        "trend_until": "2026-11-22T12:01:00.000000Z",
        "rule": 1,
        "decided_at": None,
        "muted_until": None,
        "note": "",
        "exchanges": 2,
    }


def test_a_resolved_group_that_fails_again_has_returned_and_comes_first(open_any_store, clock):
    ledger, other = open_any_store(), open_any_store()
    fail(ledger)
    assert ledger.resolve_group(the_group(ledger).group, "mended").state == "resolved"
    assert (the_group(other).state, the_group(other).decision.note) == ("resolved", "mended")
    clock.tick(1)
    fail(other)
    clock.tick(1)
    fail(other, text="another")
    assert [each.state for each in ledger.failure_groups()] == ["returned", "open"]
    ledger.resolve_group(ledger.failure_groups()[0].group)
    assert [each.state for each in ledger.failure_groups()] == ["open", "resolved"]
    assert decisions(ledger) == ["FailureGroupResolved", "FailureGroupResolved"]


def test_a_muted_group_is_left_out_until_its_time_is_over_or_it_is_asked_for(open_any_store, clock):
    ledger = open_any_store()
    fail(ledger)
    ledger.mute_group(the_group(ledger).group, NOON + timedelta(hours=1))
    assert ledger.failure_groups() == []
    assert [each.state for each in ledger.failure_groups(states=["muted"])] == ["muted"]
    clock.tick(3_599)
    assert ledger.failure_groups() == []
    clock.tick(1)
    assert [each.state for each in ledger.failure_groups()] == ["open"]


def test_a_group_that_is_muted_for_ever_is_muted_until_it_is_reopened(open_any_store, clock):
    ledger = open_any_store()
    fail(ledger)
    ledger.mute_group(the_group(ledger).group, note="known")
    clock.tick(10**8)
    assert the_group(ledger).state == "muted"
    assert ledger.reopen_group(the_group(ledger).group).state == "open"
    assert [each.state for each in ledger.failure_groups()] == ["open"]


def test_what_is_so_already_is_not_written_again(open_any_store, clock):
    ledger = open_any_store()
    fail(ledger)
    group, soon = the_group(ledger).group, NOON + timedelta(hours=1)
    ledger.reopen_group(group)
    assert decisions(ledger) == []
    for decide in (
        lambda: ledger.resolve_group(group),
        lambda: ledger.mute_group(group, soon),
        lambda: ledger.mute_group(group),
        lambda: ledger.reopen_group(group),
    ):
        before = len(decisions(ledger))
        first, second = decide(), decide()
        assert (len(decisions(ledger)), first) == (before + 1, second)
    assert len(decisions(ledger)) == 4


def test_a_group_is_found_by_the_beginning_of_its_id(open_any_store):
    ledger = open_any_store()
    fail(ledger)
    fail(ledger, text="another")
    for each in ledger.failure_groups():
        assert FailureGroups(ledger.journal).get(each.group[:6]).group == each.group
    for wrong in ("", "nosuch", "%"):
        with pytest.raises(GroupNotFound):
            ledger.resolve_group(wrong)
    assert decisions(ledger) == []


def test_what_cannot_be_meant_is_refused(open_any_store, clock):
    ledger = open_any_store()
    fail(ledger)
    with pytest.raises(InvalidInput, match="which is in the past"):
        ledger.mute_group(the_group(ledger).group, NOON)
    with pytest.raises(InvalidInput, match="use one or more of returned"):
        ledger.failure_groups(states=["gone"])
    with pytest.raises(InvalidInput, match="use one of cause"):
        ledger.summary("colour")


def test_a_secret_in_a_note_is_not_kept(open_any_store):
    ledger = open_any_store()
    fail(ledger)
    ledger.resolve_group(the_group(ledger).group, "the key was sk-planted-secret-key")
    assert "planted" not in str(list(ledger.journal.stream("audit:groups")))


def test_decisions_are_told_from_their_events_where_their_state_is_of_another_form(open_any_store, monkeypatch):
    ledger = open_any_store()
    fail(ledger)
    ledger.resolve_group(the_group(ledger).group, "mended")
    stored = FailureGroups(ledger.journal).book()
    monkeypatch.setattr("threadledger.domain.ledger.audit.BOOK_SCHEMA", 99)
    assert FailureGroups(ledger.journal).book() == stored != {}


def test_a_new_rule_regroups_nothing_silently(open_any_store, monkeypatch, clock):
    ledger = open_any_store()
    fail(ledger)
    old = ledger.resolve_group(the_group(ledger).group, "mended")
    group_id.cache_clear()
    monkeypatch.setattr("threadledger.domain.failures.groups.RULE_VERSION", 2)
    ledger.rebuild_views(["audit"])
    group = the_group(ledger)
    assert (group.state, group.group == old.group) == ("open", False)
    orphan = FailureGroups(ledger.journal).orphans()[old.group]
    assert (orphan.rule, orphan.state, orphan.note, orphan.message) == (1, "resolved", "mended", "no")
    group_id.cache_clear()


def test_the_stream_of_groups_is_no_conversation_and_the_database_is_whole(open_any_store):
    ledger = open_any_store()
    fail(ledger)
    ledger.resolve_group(the_group(ledger).group)
    assert [state.key for state in ledger.conversations()] == ["k"]
    assert list(ledger.check()) == []


# What a run was shown


def test_the_memory_of_a_run_is_told_again_and_proved_by_its_hash(open_any_store):
    ledger = open_any_store()
    chat = ledger.conversation("k")
    chat.append("user", "first")
    run = fail(ledger)
    chat.append("user", "later")
    record, _ = ledger.run(run.run_id)
    shown = memory_shown(ledger.journal, record)
    assert [each.message.text for each in shown.memory.messages] == ["first"]
    assert shown.same is True
    record.memory_hash = "0" * 64
    assert memory_shown(ledger.journal, record).same is False
    record.memory_hash = None
    assert memory_shown(ledger.journal, record).same is None


def test_profiles_are_counted_by_their_hash(open_any_store):
    ledger = open_any_store()
    profile = ledger.journal.define_profile(Profile("John", "Be kind."))
    ledger.journal.commit("k", lambda it: it.start_run("x", RunPlan("chat", "m", profile_hash=profile)), create=True)
    assert [(row.value, row.runs, row.failed) for row in ledger.summary("profile")] == [(profile, 1, 0)]


def test_questions_are_counted_once_however_many_runs_they_had(open_any_store, clock):
    """Counts of answered and unanswered questions are those of the folded exchanges, whatever the number of runs."""
    ledger = open_any_store()
    runs_of = {"once": (1, False), "thrice": (3, False), "late": (3, True), "fallback": (2, True)}
    for key, (failures, is_answered) in runs_of.items():

        def record(it, failures=failures, is_answered=is_answered, key=key):
            exchange_id = it.ask(text_message("user", "Where is it?"))
            for attempt in range(1, failures + 1):
                backend = "chat" if key == "fallback" and attempt == 2 else "responses"
                run_id = it.start_run(exchange_id, RunPlan(backend, "m", attempt=attempt))
                it.fail_run(run_id, Failure("failed", code="server_error", message="Sorry."))
            if is_answered:
                it.complete_run(
                    it.start_run(exchange_id, RunPlan("chat", "m")),
                    Completion((text_message("assistant", "In Bern."),)),
                )
            else:
                it.abandon(exchange_id, "no")

        ledger.journal.commit(key, record, create=True)
    groups = {each.backend: each for each in ledger.failure_groups()}
    assert [(each.runs, each.exchanges, each.answered, each.unanswered) for each in groups.values()] == [
        (1, 1, 1, 0),
        (8, 4, 2, 2),
    ]
    (row,) = ledger.summary("cause")
    assert (row.failed, row.exchanges, row.answered, row.unanswered) == (9, 4, 2, 2)
    by_backend = {each.value: (each.failed, each.answered, each.unanswered) for each in ledger.summary("backend")}
    assert by_backend == {"responses": (8, 2, 2), "chat": (1, 1, 0)}
    assert sum(each.unanswered for each in ledger.conversations()) == 2
