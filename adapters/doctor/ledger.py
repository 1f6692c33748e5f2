"""Check the ledger for `doctor`: database, runs, jobs, the recorded state of threads, backends and the profile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..documents import clock, counted, short
from .settings import Checked
from .workers import check_workers

if TYPE_CHECKING:
    from threadledger.domain.conversation import Profile
    from threadledger.domain.ledger import LaggingThread, Ledger
    from threadledger.domain.replay import JobState

    from ..settings import Settings
    from ..sql import Database

LIMITS_SHOWN, LIMITS_SHOWN_SECONDS = 6, 3_600.0
"""Maximum number of shared limits that are shown, and how recently they were used, in seconds."""

NAMED = 3
"""Maximum number of runs, jobs or conversations that a message names; the others are only counted."""


def check_database(ledger: Ledger) -> Iterator[Checked]:
    """Report the schema version and the contents of the database."""
    before, thing = ledger.schema_before, ledger.status()
    upgraded = f", upgraded from {before} just now" if before else ""
    events, conversations = counted(thing["events"], "event"), counted(thing["conversations"], "conversation")
    message = f"{thing['url']}: schema {thing['schema_version']}{upgraded}, {events} of {conversations}"
    yield Checked("database", message)


def check_runs(ledger: Ledger) -> Iterator[Checked]:
    """Close runs that a crash left open past their deadline and report them; report other open runs."""
    closed, still_open = ledger.close_overdue_runs(), ledger.journal.open_runs()
    if closed:
        yield Checked(
            "runs",
            f"{counted(len(closed), 'run')} left open by a crash past the deadline: now closed as interrupted "
            f"({_named(map(short, closed), len(closed))})",
            "ask again, or: threadledger replay rerun --failed --cause interrupted",
        )
    if still_open:
        first = min((run.deadline for _, _, run in still_open if run.deadline), default="")
        until = f"; the earliest deadline is {clock(first)} UTC" if first else ""
        message = f"{counted(len(still_open), 'run')} open ({_named((short(each[1]) for each in still_open), len(still_open))})"
        yield Checked("runs", f"{message}{until}")
    elif not closed:
        yield Checked("runs", "no run was left open past its deadline")


def check_unanswered(ledger: Ledger) -> Iterator[Checked]:
    """Report failed exchanges that have no answer and are no longer in progress."""
    from threadledger.domain import limits
    from threadledger.domain.ids import now, to_iso

    given_up_before = now().timestamp() - limits.BETWEEN_RUNS_SECONDS
    found = ledger.journal.views.unanswered(limit=limits.UNANSWERED_CHECKED_MAX)
    given_up = [
        failure
        for failure in found
        if failure.next == "abandoned" or (failure.next == "open" and failure.at.timestamp() < given_up_before)
    ]
    states = dict(ledger.journal.states_of(sorted({failure.key for failure in given_up})))
    exchanges = {
        (failure.key, failure.exchange_id)
        for failure in given_up  # of conversations that were not deleted
        if failure.key in states and to_iso(failure.at) >= states[failure.key].started_at
    }
    overtaken = {(key, exchange_id) for key, exchange_id in exchanges if states[key].last_exchange_id != exchange_id}
    exchanges -= overtaken
    checked = (
        f" (of the newest {len(found):,} failed runs without one)"
        if len(found) == limits.UNANSWERED_CHECKED_MAX
        else ""
    )
    if not exchanges:
        continued = (
            f"; in {counted(len(overtaken), 'exchange')} the conversation continued without one" if overtaken else ""
        )
        yield Checked("unanswered", f"no failed exchange is waiting for an answer{continued}{checked}")
        return
    conversations = counted(len({key for key, _ in exchanges}), "conversation")
    yield Checked(
        "unanswered",
        f"{counted(len(exchanges), 'exchange')} of {conversations} without an answer{checked}: every backend failed",
        "list them with: threadledger audit failures --unanswered; rerun them with: threadledger replay rerun --failed",
    )


def check_backends_health(ledger: Ledger) -> Iterator[Checked]:
    """Report backends that exchanges skip after several failures in a row."""
    from threadledger.domain.failures import advise
    from threadledger.domain.ids import to_iso

    cooling = [health for health in ledger.health() if health.cooling_until is not None]
    for health in cooling:
        if health.cooling_until is not None and health.last_cause is not None:
            until = clock(to_iso(health.cooling_until))
            yield Checked(
                "cooling",
                f"{health.backend} is skipped until {until} UTC while another backend is available: "
                f"{health.failures_in_a_row} failures in a row, "
                f"most recently {health.last_cause.value}",
                advise(health.last_cause, backend=health.backend).replace("rerun RUN", "rerun --failed"),
            )
    if not cooling:
        yield Checked("cooling", "no backend is cooling down")
    yield from _shared_limits(ledger)


def _shared_limits(ledger: Ledger) -> Iterator[Checked]:
    """Say what is left of the limits that all processes share."""
    from ..sql import SqlProviderLimits

    database: Database = ledger.journal.factory.database  # type: ignore[attr-defined]
    moment = time.time()
    known = [each for each in SqlProviderLimits(database).known() if moment - each[3].at < LIMITS_SHOWN_SECONDS]
    for endpoint, model, quantity, bucket in known[:LIMITS_SHOWN]:
        place = f"{endpoint.partition('#')[0]}{f' ({model})' if model else ''}"
        left = max(bucket.refilled(moment).available, 0.0)
        rate = f"{left:,.0f} of {bucket.per_minute:,.0f} {quantity} a minute are left" if bucket.per_minute else ""
        closed = f"calls are refused for {bucket.closed_until - moment:.0f} s" if bucket.closed_until > moment else ""
        if rate or closed:
            yield Checked("cooling", f"{place}, shared by all processes: {', '.join(filter(None, (rate, closed)))}")


def check_views(ledger: Ledger) -> Iterator[Checked]:
    """Report events that a view could not process."""
    views = ledger.status()["views"]
    for view in views:
        if view["parked"]:
            yield Checked(
                "views",
                f"{view['name']} could not process {counted(view['parked'], 'event')}: its results are incomplete",
                f"threadledger db check, then: threadledger db rebuild-views {view['name']}",
            )
    if not any(view["parked"] for view in views):
        yield Checked("views", f"{', '.join(view['name'] for view in views)}: every event could be processed")


def check_lagging(ledger: Ledger) -> Iterator[Checked]:
    """Report threads that lag behind the journal according to recorded state; the provider is not called."""
    from threadledger.domain.ledger import threads_behind

    services = ledger.services
    if not services.mirrors or (services.mirrored_to == "none"):
        yield Checked(
            "lagging",
            "no provider is configured to mirror memory to" if not services.mirrors else "memory is not mirrored",
        )
        return
    lags = threads_behind(ledger.journal, services)
    found = Counter(each.state for each in lags.threads)
    for state, times in found.items():
        yield _lagging(state, times, [each for each in lags.threads if each.state == state])
    if not found:
        among = counted(lags.of, "conversation")
        if lags.checked < lags.of:
            among = f"the {counted(lags.checked, 'conversation')} of {lags.of:,} that changed last"
        doubtful = (
            f"; {counted(lags.doubtful, 'thread')} with an unconfirmed write, to be read before the next write"
            if lags.doubtful
            else ""
        )
        held = f"; being written to: {_named(lags.held, len(lags.held))}" if lags.held else ""
        yield Checked("lagging", f"no thread of {among} lags behind, according to recorded state{doubtful}{held}")


def _lagging(state: str, times: int, threads: list[LaggingThread]) -> Checked:
    named = _named((repr(each.key) for each in threads), times)
    threads_ = counted(times, "thread")
    messages = counted(sum(each.messages for each in threads), "message")
    verify = "show the drift with: threadledger replay verify --all; repair it with: threadledger replay reconcile --all --apply"
    rebuild = "threadledger replay rebuild KEY --apply, or ask again: the next message creates a thread"
    results = {
        "behind": (f"{threads_} {_lag(times)} behind by {messages} ({named})", verify),
        "unsettled": (f"{threads_}: a process stopped in the middle of a write ({named})", verify),
        "lost": (f"{threads_} of the provider {_is(times)} gone ({named})", rebuild),
        "too_long": (
            f"{threads_} {_is(times)} too long for the model and no longer used ({named})",
            "write a new one with: threadledger replay rebuild KEY --fresh --apply",
        ),
        "unlinked": (
            f"{counted(times, 'conversation')} with {messages} {_has(times)} no thread yet ({named})",
            rebuild,
        ),
    }
    return Checked("lagging", *results[state])


def check_jobs(ledger: Ledger) -> Iterator[Checked]:
    """Report bulk jobs that were stopped or have failed items."""
    jobs = ledger.replay.jobs()
    stopped = [job for job in jobs if job.state == "stopped" and not job.is_detached]
    waiting = [*stopped, *(job for job in jobs if job.failed and job.state == "done")]
    for job in waiting[:NAMED]:
        yield Checked("jobs", _job(job), f"threadledger replay resume {short(job.job_id)}")
    if len(waiting) > NAMED:
        more = f"{counted(len(waiting) - NAMED, 'more job')} stopped or with failed items"
        yield Checked("jobs", more, "list them with: threadledger replay jobs")
    if not waiting:
        running = [job for job in jobs if job.state == "running"]
        by = ", ".join(dict.fromkeys(holder for job in running for holder in job.holders))
        yield Checked(
            "jobs",
            f"{counted(len(running), 'job')} running: {by}" if running else "no job is stopped and no item failed",
        )


def _job(job: JobState) -> str:
    parts = [f"{job.left:,} of {counted(job.items, 'item')} left"] if job.left else []
    parts += [f"{counted(job.failed, 'item')} failed"] if job.failed else []
    return f"{job.kind} job {short(job.job_id)} is {job.state}: {', '.join(parts)}"


def _named(names: Iterable[str], number: int) -> str:
    """Return the first names, with an ellipsis if there are more."""
    shown = [name for name, _ in zip(names, range(NAMED), strict=False)]
    return ", ".join(shown) + (", …" if number > NAMED else "")


def _lag(number: int) -> str:
    return "lags" if number == 1 else "lag"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _has(number: int) -> str:
    return "has" if number == 1 else "have"


def check_profile(ledger: Ledger, settings: Settings, profile: Profile) -> Iterator[Checked]:
    """Check that each backend's preflight accepts the profile, and that its tools are well-defined and can be run."""
    from threadledger.domain.conversation import text_message
    from threadledger.domain.conversation.messages import JournaledMessage
    from threadledger.domain.exchange import BackendRequest
    from threadledger.domain.failures import Cause, advise, diagnose
    from threadledger.domain.ids import now
    from threadledger.domain.memory import Memory

    from ..openai import tool_problems
    from ..tool_loading import problem_of_tools

    services = ledger.services
    functions = [tool["function"]["name"] for tool in profile.tools if tool["type"] == "function"]
    tools = dict.fromkeys(functions, print) if settings.tools else services.tools  # only a run imports them
    memory = Memory((JournaledMessage(text_message("user", "?"), "doctor", 1, now()),))
    found: list[Checked] = []
    notes: list[Checked] = []
    for name in settings.order:
        model = settings.model_for(name, profile)
        request = BackendRequest(
            *("doctor", "", "", model, profile, memory, settings.timeout_seconds),
            tools=tools,
            secret_of=services.secret_of,
        )
        backend = services.backends[name]
        lacks: Sequence[str] = ()
        if name != settings.order[0] and settings.fallback == "drop":
            lacks = backend.lacks(request) if hasattr(backend, "lacks") else []
            if lacks:
                notes.append(Checked("profile", f"as a fallback, {name} answers without {', '.join(lacks)}"))
        refusal = backend.preflight(request)
        if refusal is not None and not (lacks and diagnose(refusal) is Cause.TOOL_NOT_SUPPORTED):
            said, kind = refusal.message or refusal.summary(), settings.kind_of(name)
            said = said if kind == name else f"{name}: {said}"
            found.append(Checked("profile", said, advise(diagnose(refusal), backend=name)))
    for problem in tool_problems(profile.tools):
        found.append(Checked("profile", problem, "correct the tools in THREADLEDGER_PROFILE"))
    if settings.tools and (undefined := problem_of_tools(settings.tools, profile)) is not None:
        found.append(Checked("profile", undefined, "correct THREADLEDGER_TOOLS, or the tools in THREADLEDGER_PROFILE"))
    unbound = [name for name in functions if name not in tools]
    if unbound:
        found.append(
            Checked(
                "profile",
                f"the profile declares {', '.join(unbound)}, but no function is bound here: the command line cannot run them",
                "set THREADLEDGER_TOOLS to a module that defines them, or remove them from the profile; an app binds its own: "
                "threadledger.open(tools={name: function})",
            )
        )
    yield from [*notes, *found]
    if not notes and not found:
        yield Checked("profile", f"{profile.name}: every backend accepts it")


def check_replica(ledger: Ledger, settings: Settings) -> Iterator[Checked]:
    """Check that the replica of the settings can be read, is a copy of the ledger, and how far it is behind."""
    if settings.replica is None:
        return
    from threadledger.domain.errors import ThreadledgerError

    from ..documents import error_sentence
    from ..sql import lag_of_replica

    try:
        settings.require_trust("replica")
        lag = lag_of_replica(settings.replica, settings.db)
    except ThreadledgerError as error:
        mend = "correct THREADLEDGER_READ_DB or unset it; until then, the primary answers all readers"
        yield Checked("replica", error_sentence(error), mend)
        return
    yield Checked("replica", f"{lag.url}: {lag}", "check its replication" if lag.is_noticeable else None)


LEDGER_CHECKS: dict[str, Callable[[Ledger], Iterable[Checked]]] = {
    "database": check_database,
    "runs": check_runs,
    "unanswered": check_unanswered,
    "lagging": check_lagging,
    "jobs": check_jobs,
    "workers": check_workers,
    "cooling": check_backends_health,
    "views": check_views,
}
