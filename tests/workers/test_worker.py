"""Test what a worker does for a ledger, on every database, with a real provider on loopback."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from freezegun import freeze_time

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.adapters.sql.connections import Connections
from threadledger.adapters.workers import Worker, WorkerOptions, duties, open_worker, work
from threadledger.domain.conversation import Profile, stream_of
from threadledger.domain.exchange.served import ServedRequest, requested
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger, lags_among
from threadledger.domain.threads import ThreadState

from .performing import wait_until

Open = Callable[..., Ledger]
Start = Callable[..., Worker]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let duties follow each other at once, and nothing wait for the process that journaled it."""
    for name in ("FOLLOW_SECONDS", "CLOSE_SECONDS", "VIEWS_SECONDS", "REAP_SECONDS"):
        monkeypatch.setattr(duties, name, 0.05)
    monkeypatch.setattr(duties, "FOLLOW_GRACE_SECONDS", 0.0)


@pytest.fixture
def opened(any_db_url: str, simulator: Simulator) -> Iterator[Open]:
    """Yield a function that opens ledgers on one database; their threads are written by workers."""
    ledgers: list[Ledger] = []

    def open_one(**given: Any) -> Ledger:
        settings: dict[str, Any] = {"db": any_db_url, "openai_api_key": "sk-test", "mirror_by": "worker", "retries": 0}
        ledgers.append(open_ledger(load_settings(**settings | {"openai_base_url": simulator.base_url} | given)))
        return ledgers[-1]

    yield open_one
    for each in ledgers:
        each.close()


@pytest.fixture
def start(opened: Open, any_db_url: str) -> Iterator[Start]:
    """Yield a function that starts workers, each with a ledger of its own."""
    workers: list[Worker] = []

    def start_one(concurrency: int = 2, **given: Any) -> Worker:
        settings = load_settings(db=any_db_url, mirror_by=given.get("mirror_by", "worker"))
        workers.append(open_worker(opened(**given), settings, WorkerOptions(concurrency, port=0)))
        workers[-1].start()
        return workers[-1]

    yield start_one
    for each in workers:
        each.stop()


def db_kind(ledger: Ledger) -> str:
    return str(ledger.status()["dialect"])


def same(ledger: Ledger, *keys: str) -> bool:
    found = ledger.replay.verify(keys)
    return [each.found.state for each in found] == [ThreadState.SAME] * len(keys)


def test_an_append_sends_nothing_and_a_worker_sends_it(opened: Open, start: Start, simulator: Simulator) -> None:
    ledger = opened()
    ledger.conversation("before").append("user", "Hello.")
    start()
    wait_until(lambda: bool(ledger.state("before").links))
    sent = len(simulator.requests)
    ledger.conversation("after").append("user", "Hello again.")
    ledger.conversation("before").append("user", "Are you there?")
    wait_until(lambda: same(ledger, "before", "after"))
    assert sent > 0
    assert Counter(each.template for each in simulator.requests)["POST /conversations"] == 2


def test_without_a_worker_nothing_is_sent(opened: Open, simulator: Simulator) -> None:
    opened().conversation("k").append("user", "Hello.")
    assert simulator.requests == []


def test_the_answer_of_an_app_is_in_the_thread_when_the_worker_has_written_it(opened: Open, start: Start) -> None:
    ledger = opened(backends=("chat",))
    start()
    answer = ledger.conversation("k").ask("Where is my parcel?")
    wait_until(lambda: same(ledger, "k"))
    said = [each["content"] for each in ledger.memory("k").as_chat_messages()]
    assert said == ["Where is my parcel?", answer.text]


def test_a_thread_that_an_app_left_behind_is_written(opened: Open, start: Start) -> None:
    start(mirror_by="app")
    crashed = opened(mirror_by="app", openai_api_key=None)  # it journals, and sends nothing
    crashed.conversation("k").append("user", "Hello.")
    wait_until(lambda: same(opened(mirror_by="app"), "k"))


def test_a_worker_leaves_a_thread_to_the_app_that_writes_it_for_some_seconds(
    opened: Open, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "FOLLOW_GRACE_SECONDS", 3_600.0)
    worker = start(mirror_by="app")
    wait_until(lambda: worker.work.done == {("sweep", "done"): 1})
    opened(mirror_by="app", openai_api_key=None).conversation("k").append("user", "Hello.")
    follow = worker._followed.follow
    assert follow({"cursor": "0", "jobs": []})["cursor"] == "0"
    assert worker.engine.counts()["waiting"] == 0


def test_a_copy_that_arrives_late_is_deleted_without_a_further_message(
    opened: Open, start: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "DOUBT_LOOK_SECONDS", 0.05)
    monkeypatch.setattr("threadledger.adapters.sql.worker_notes.WORK_RETRY_FIRST_SECONDS", 0.01)
    ledger = opened()
    start()
    ledger.conversation("k").append("user", "Hello.")
    wait_until(lambda: same(ledger, "k"))
    # The request is lost, is sent again, and arrives after six further ones.
    simulator.add_fault("POST /conversations/{conversation_id}/items", land_late=6, times=1)
    ledger.conversation("k").append("user", "Are you there?")
    wait_until(lambda: any("land" in str(each) or each.status is None for each in simulator.requests))
    wait_until(lambda: same(ledger, "k") and has_no_doubts(ledger, "k"))


def has_no_doubts(ledger: Ledger, key: str) -> bool:
    return lags_among(ledger.journal, ledger.services, [key]).doubtful_keys == []


def test_an_item_that_fails_is_tried_again_until_it_succeeds(
    opened: Open, start: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.worker_notes.WORK_RETRY_FIRST_SECONDS", 0.01)
    simulator.add_fault("POST /conversations", refuse={"status": 500}, times=2)
    ledger = opened()
    worker = start()
    ledger.conversation("k").append("user", "Hello.")
    wait_until(lambda: same(ledger, "k"))
    wait_until(lambda: worker.work.notes.counts() == {"failed": 0, "parked": 0})
    assert worker.work.done["mirror", "failed"] == 2


def test_an_item_that_fails_too_often_is_parked_and_shown_until_a_person_retries_it(
    opened: Open, start: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.worker_notes.WORK_RETRY_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(work, "WORK_ATTEMPTS_MAX", 2)
    simulator.add_fault("POST /conversations", refuse={"status": 401}, times=2)
    ledger = opened()
    worker = start()
    ledger.conversation("k").append("user", "Hello.")
    wait_until(lambda: worker.work.notes.counts() == {"failed": 0, "parked": 1})
    (parked,) = worker.work.notes.failed(10)
    assert (parked.kind, parked.subject, parked.attempts) == ("mirror", "k", 2)
    assert "authentication" in parked.reason
    assert worker.work.notes.retry() == 1
    wait_until(lambda: same(ledger, "k"))


def test_a_job_that_was_handed_over_is_done_by_all_workers_and_each_item_once(
    opened: Open, start: Start, simulator: Simulator
) -> None:
    ledger = opened(threads="none")
    keys = [f"k{number}" for number in range(24)]
    for key in keys:
        ledger.conversation(key).append("user", "Hello.")
    planning = opened(mirror_by="app")
    job = planning.replay.plan_rebuild(keys, to="conversations", fresh=True).detach()
    assert job is not None and job.is_detached
    workers = [start(threads="none"), start(threads="none")]
    wait_until(lambda: planning.replay.job(job.job_id).left == 0)
    results = planning.replay.results(job.job_id)
    assert [each["state"] for each in results] == ["done"] * len(keys)
    assert Counter(each.template for each in simulator.requests)["POST /conversations"] == len(keys)
    if db_kind(ledger) == "postgresql":  # on SQLite, one worker does it all
        wait_until(lambda: all(("job", "done") in each.work.done for each in workers))


def test_a_job_has_no_more_rows_in_the_engine_than_workers_have_places_however_many_items_it_has(
    opened: Open, db_url: str
) -> None:
    ledger = opened(db=db_url, threads="none")
    keys = [f"k{number}" for number in range(300)]
    for key in keys:
        ledger.conversation(key).append("user", "Hello.")
    assert opened(db=db_url, mirror_by="app").replay.plan_rebuild(keys, to="conversations", fresh=True).detach()
    rows: set[str] = set()
    for concurrency in (2, 3):
        worker = open_worker(opened(db=db_url), load_settings(db=db_url), WorkerOptions(concurrency, port=0))
        worker.work.notes.seen(worker._facts())
        worker.engine.defer = lambda items: rows.update(each.name for each in items if each.kind == "job")  # type: ignore[method-assign]
        state = worker._followed.follow(worker._followed.follow({}))
        assert state["jobs"]
    assert len(rows) == 5  # the engine has one row for each name


def test_failed_items_of_a_job_are_tried_again_and_a_cancelled_job_is_left_alone(
    opened: Open, start: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.worker_notes.WORK_RETRY_FIRST_SECONDS", 0.01)
    ledger = opened(threads="none")
    for number in range(4):
        ledger.conversation(f"k{number}").append("user", "Hello.")
    planning = opened(mirror_by="app")
    cancelled = planning.replay.plan_rebuild(["k0"], to="conversations").detach()
    job = planning.replay.plan_rebuild(["k1", "k2", "k3"], to="conversations").detach()
    assert job is not None and cancelled is not None
    planning.replay.cancel(cancelled.job_id)
    simulator.add_fault("POST /conversations", refuse={"status": 500}, times=2)
    worker = start(concurrency=1, threads="none")
    wait_until(lambda: (planning.replay.job(job.job_id).done, planning.replay.job(job.job_id).failed) == (3, 0))
    wait_until(lambda: worker.work.notes.counts() == {"failed": 0, "parked": 0})
    assert planning.replay.job(cancelled.job_id).done == 0


def test_threads_are_verified_as_a_job_and_drift_is_shown(opened: Open, start: Start, simulator: Simulator) -> None:
    ledger = opened(mirror_by="app")
    for key in ("same", "gone"):
        ledger.conversation(key).append("user", "Hello.")
    lost = ledger.state("gone").links["conversations"].thread_id
    simulator.lose(lost)
    job = ledger.replay.plan_verify().detach()
    assert job is not None and job.kind == "verify"
    start(mirror_by="app")
    wait_until(lambda: ledger.replay.job(job.job_id).left == 0)
    results = {each["key"]: (each["state"], each["thread_state"]) for each in ledger.replay.results(job.job_id)}
    assert results == {"same": ("done", "same"), "gone": ("done", "gone")}
    assert {each.key: each.state for each in ledger.threads()} == {"same": "same", "gone": "gone"}


def test_failed_reruns_of_a_job_are_not_paid_for_again(
    opened: Open, start: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.worker_notes.WORK_RETRY_FIRST_SECONDS", 0.01)
    ledger = opened(backends=("chat",), threads="none")
    simulator.add_fault("POST /chat/completions", refuse={"status": 400}, times=None)
    with pytest.raises(Exception, match="k"):
        ledger.conversation("k").ask("Where is it?")
    job = ledger.replay.plan_rerun(failed=True).detach(max_runs=1)
    assert job is not None
    called = len(simulator.requests)
    worker = start(backends=("chat",), threads="none")
    wait_until(lambda: worker.work.notes.counts()["parked"] == 1)
    assert len(simulator.requests) == called + 1


def test_a_job_that_a_worker_cannot_do_is_tried_again_and_done_by_one_that_can(
    opened: Open, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.sql.worker_notes.WORK_RETRY_FIRST_SECONDS", 0.01)
    ledger = opened(mirror_by="app", threads="none")
    ledger.conversation("k").append("user", "Hello.")
    job = opened(mirror_by="app").replay.plan_rebuild(["k"], to="conversations").detach()
    assert job is not None
    lacking = start(threads="none", openai_api_key=None)
    wait_until(lambda: bool(lacking.work.notes.failed(10)))
    (failed,) = lacking.work.notes.failed(10)
    assert (failed.kind, failed.subject) == ("job", job.job_id) and "OPENAI_API_KEY" in failed.reason
    lacking.stop()
    start(threads="none")
    wait_until(lambda: ledger.replay.job(job.job_id).done == 1)


def test_a_worker_without_a_key_leaves_threads_to_others(opened: Open, start: Start) -> None:
    ledger = opened()
    ledger.conversation("k").append("user", "Hello.")
    lacking = start(openai_api_key=None)
    lacking.engine.defer([duties.WorkItem("mirror", "k")])
    wait_until(lambda: bool(lacking.work.notes.failed(10)))
    assert "the key of the provider" in lacking.work.notes.failed(10)[0].reason


def test_a_background_exchange_that_no_process_runs_is_answered(opened: Open, start: Start) -> None:
    ledger = opened(backends=("chat",))
    journal = ledger.journal
    ledger.conversation("k").append("user", "Where is my parcel?")
    notes = journal.served_notes
    asked = ServedRequest("assistants", Profile(), "gpt-5.5", 600, "request-1")
    event = requested(journal, "k", asked, lambda exchange_id: notes.claim(stream_of("k"), exchange_id))
    notes.release_all()  # as a server that stops
    start(backends=("chat",))
    wait_until(lambda: event.exchange_id in ledger.state("k").answered)
    wait_until(lambda: notes.abandoned(10) == [])
    assert len(ledger.memory("k").messages) == 2


def test_a_run_that_a_crash_left_open_is_closed_after_its_deadline(opened: Open, start: Start) -> None:
    ledger = opened(threads="none")
    with freeze_time(now() - timedelta(days=2), real_asyncio=True):
        running = ledger.conversation("k").run(backend="own", model="m")
        running.__enter__()
    worker = start(threads="none")
    wait_until(lambda: not ledger.state("k").open_runs)
    assert worker.work.done.get(("mirror", "failed")) is None


def test_views_are_caught_up_without_a_reader(opened: Open, start: Start) -> None:
    ledger = opened(threads="none")
    ledger.conversation("k").append("user", "Hello.")
    assert max(view["lag"] for view in ledger.status()["views"]) > 0
    start(threads="none")
    wait_until(lambda: max(view["lag"] for view in ledger.status()["views"]) == 0)


def test_a_long_memory_is_compacted_before_the_next_question_needs_it(opened: Open, start: Start) -> None:
    given: dict[str, Any] = {"backends": ("chat",), "threads": "none", "compact_keep_last": 1}
    ledger = opened(**given)
    start(**given, compact_at_tokens=50)
    for _ in range(3):
        ledger.conversation("k").ask("Where is my parcel? " * 10)
    wait_until(lambda: any(each.type == "MemoryCompacted" for each in ledger.events()))


def test_a_conversation_that_was_deleted_is_done_and_not_a_failure(opened: Open, start: Start) -> None:
    ledger = opened()
    ledger.conversation("k").append("user", "Hello.")
    ledger.conversation("k").delete("asked for")
    worker = start()
    worker.engine.defer([duties.WorkItem("mirror", "k"), duties.WorkItem("mirror", "never there")])
    wait_until(lambda: worker.work.done.get(("mirror", "done"), 0) >= 2)
    assert worker.work.notes.counts() == {"failed": 0, "parked": 0}


def test_a_worker_that_stops_breaks_off_and_another_one_does_the_rest(
    opened: Open, start: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadledger.adapters.workers.worker.STOP_SECONDS", 3.2)
    simulator.add_fault("POST /conversations", hang=600, times=1)
    ledger = opened()
    stopped = start(concurrency=1)
    ledger.conversation("k").append("user", "Hello.")
    wait_until(lambda: len(simulator.requests) >= 1 or bool(stopped.work._in_progress))
    stopped.stop()
    assert ledger.state("k").links == {}
    start(concurrency=1)
    wait_until(lambda: same(ledger, "k"))


def test_workers_find_their_place_in_a_log_that_was_replaced(opened: Open, start: Start) -> None:
    ledger = opened()
    ledger.conversation("k").append("user", "Hello.")
    notes = ledger.journal.worker_notes
    assert notes.hold("follow") is not None
    assert notes.keep("follow", {"cursor": f"v1.{'0' * 8}-0000-7000-8000-{'0' * 12}.5.{'0' * 16}", "jobs": []})
    notes.release()
    start()
    wait_until(lambda: same(ledger, "k"))
    wait_until(lambda: any(str(each.state.get("cursor")) >= "v1" for each in notes.duties()))


def test_health_and_metrics_say_what_a_worker_does(opened: Open, start: Start) -> None:
    ledger = opened()
    worker = start(concurrency=3)
    ledger.conversation("k").append("user", "Hello.")
    wait_until(lambda: worker.work.done.get(("mirror", "done"), 0) >= 1)
    with urlopen(f"{worker.url}/health") as reply:
        health = json.load(reply)
    assert health["status"] == "ok" and health["concurrency"] == 3 and health["parked"] == 0
    with urlopen(f"{worker.url}/metrics") as reply:
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = reply.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['threadledger_worker_items_total{kind="mirror",outcome="done"}']) >= 1
    assert values["threadledger_worker_items_parked"] == "0"
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == {each.split("{")[0] for each in values}
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{worker.url}/anything")


def test_workers_that_are_alive_are_known_and_leave_in_order(opened: Open, start: Start) -> None:
    one, other = start(concurrency=2), start(concurrency=3)
    rows = opened().journal.worker_notes.workers()
    assert sorted(row.facts["concurrency"] for row in rows if row.is_alive) == [2, 3]
    one.stop()
    other.stop()
    assert opened().journal.worker_notes.workers() == []


def test_following_costs_what_is_new_however_large_the_ledger_is(
    opened: Open, db_url: str, any_db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if db_url != any_db_url:
        pytest.skip("the statements are the same")
    ledger = opened(threads="none")
    worker = open_worker(opened(), load_settings(db=db_url, mirror_by="worker"), WorkerOptions(port=0))
    used: list[str] = []
    for name in ("cursor", "write", "query", "read"):
        original = getattr(Connections, name)

        def counting(self: Connections, *given: Any, name: str = name, original: Any = original) -> Any:
            used.append(name)
            return original(self, *given)

        monkeypatch.setattr(Connections, name, counting)
    costs = []
    state: duties.State = {}
    for size in (10, 200):
        for number in range(size):
            ledger.conversation(f"{size} {number}").append("user", "Hello.")
        before = None
        while state is not before:
            before, state = state, worker._followed.follow(state)
        ledger.conversation("k").append("user", "Hello.")
        used.clear()
        state = worker._followed.follow(state)
        costs.append(len(used))
    assert 0 < costs[1] <= costs[0]


def test_opentelemetry_gets_the_metrics_too(opened: Open, start: Start) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from threadledger.adapters.workers.telemetry import report

    ledger = opened()
    worker = start()
    reader = InMemoryMetricReader()
    report(worker.metrics, MeterProvider([reader]))
    ledger.conversation("k").append("user", "Hello.")
    wait_until(lambda: worker.work.done.get(("mirror", "done"), 0) >= 1)
    data = reader.get_metrics_data()
    assert data is not None
    found = {each.name: each for each in data.resource_metrics[0].scope_metrics[0].metrics}
    points = found["threadledger_worker_items_total"].data.data_points
    assert {(point.attributes["kind"], point.attributes["outcome"]) for point in points} >= {("mirror", "done")}
    assert found["threadledger_worker_items_parked"].data.data_points[0].value == 0


def test_a_thread_that_a_limit_of_the_provider_holds_up_waits_and_has_not_failed(
    opened: Open, start: Start, simulator: Simulator
) -> None:
    refused = {"status": 429, "headers": {"retry-after-ms": "300"}}
    simulator.add_fault("POST /conversations", refuse=refused, times=3)
    worker = start()
    ledger = opened()
    ledger.conversation("k").append("user", "Hello.")
    wait_until(lambda: same(ledger, "k"))
    assert worker.work.done.get(("mirror", "failed"), 0) == 0 and worker.work.done["mirror", "later"] > 0
