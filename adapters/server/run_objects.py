"""Fold the events of an exchange into the API's objects of a run and its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Message, ToolCall, restore_message
from threadledger.domain.exchange.served_responses import SURFACE
from threadledger.domain.failures import Cause, Failure, diagnose, redact
from threadledger.domain.ids import now, to_iso

from ..wire import Json, objects
from .contents import MESSAGE, RUN, says_anything, seconds, texts_in
from .file_search import hits_in, search_name
from .ids import wire_id

if TYPE_CHECKING:
    from threadledger.domain.conversation import Profile

STEP = "step_"
CALLS = "c"
"""End of the id of a step with the calls of a message that also says something."""

MESSAGE_CHARS_MAX = 2_000
"""Maximum length of the message of a run's error, in characters."""

RATE_LIMITED = frozenset({Cause.RATE_LIMITED, Cause.QUOTA_EXHAUSTED})
INVALID = frozenset(
    {
        *(Cause.EMPTY_MEMORY, Cause.CONTEXT_TOO_LONG, Cause.ASSISTANT_MISCONFIGURED, Cause.TOOL_NOT_SUPPORTED),
        *(Cause.INSTRUCTIONS_TOO_LONG, Cause.TOO_MANY_TOOLS, Cause.MODEL_UNAVAILABLE),
    }
)
CODES = frozenset({"server_error", "rate_limit_exceeded", "invalid_prompt"})
"""Codes of `last_error`. Source: openai-python 3.54, types/beta/threads/run.py."""


@dataclass
class SaidMessage:
    """Hold a message that a run journaled, with its place."""

    event: e.MessageJournaled
    message: Message


@dataclass
class ServedRun:
    """Hold what the events of an exchange say about its run: its request, its attempts, and how it ended."""

    exchange_id: str
    key: str
    rerun_id: str = ""
    """Id of the run with which the exchange was run again, or of its first attempt then; empty for the first time."""
    created_at: datetime | None = None
    requested: e.ExchangeRequested | None = None
    """Its first request."""
    is_of_client: bool = False
    """Whether its newest request is that of a client which calls the functions itself, and continues it or never does."""
    started: list[e.RunStarted] = field(default_factory=list)
    said: list[SaidMessage] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    """Results of function calls, by the id of the call."""
    result_times: dict[str, datetime] = field(default_factory=dict)
    completed: list[e.RunCompleted] = field(default_factory=list)
    failed: e.RunFailed | None = None
    """The newest failure."""
    waits_for: tuple[str, ...] = ()
    """Ids of the calls whose results the newest attempt needs."""
    ended_at: datetime | None = None
    ended: str = ""
    """How it ended: a status of the API, or empty."""
    ended_version: int = 0
    """Version of the event that ended it; 0 if it has not ended."""
    metadata: Mapping[str, Any] | None = None
    version: int = 0
    """Version of its first event."""
    newest_version: int = 0
    """Version of its newest event."""
    open_runs: set[str] = field(default_factory=set)
    of_calls: str = ""
    """Id of the newest attempt that ended with calls."""

    @property
    def name(self) -> str:
        """Return the id under which the API shows it."""
        return wire_id(RUN, self.rerun_id or self.exchange_id)

    @property
    def deadline(self) -> str | None:
        """Return when it expires (ISO 8601); None if it never does."""
        return self.requested.deadline if self.requested is not None and not self.rerun_id else None

    @property
    def begun_version(self) -> int | None:
        """Return the version of the event that gives it its place in a list of runs; None if there is no such event."""
        begun = (self.requested if not self.rerun_id else None) or next(iter(self.started), None)
        return begun.originator_version if begun is not None else None

    @property
    def pending(self) -> list[str]:
        """Return the ids of the calls whose results are missing."""
        if self.ended:
            return []
        wanted = self.waits_for or self._calls_of_client()
        return [each for each in wanted if each not in self.results]

    def _calls_of_client(self) -> Sequence[str]:
        """Return the ids of the calls with which the newest attempt ended, if a client was given them."""
        if not self.is_of_client or not self.of_calls or self.started[-1].run_id != self.of_calls:
            return ()
        said = (each.message for each in self.said if each.event.run_id == self.of_calls)
        return [call.id for message in said for call in message.calls()]

    @property
    def status(self) -> str:
        """Return the status that the API shows."""
        if self.ended:
            return self.ended
        if self.pending:
            return "requires_action"
        if self.open_runs or (self.started and self.started[-1].run_id != self.of_calls):
            return "in_progress"
        return "queued"

    @property
    def is_overdue(self) -> bool:
        """Return whether it has not ended although its time is over."""
        return not self.ended and self.deadline is not None and to_iso(now()) >= self.deadline


def folded_run(events: Iterable[e.Event], exchange_id: str, key: str) -> ServedRun:
    """Return the run of an exchange from its events, oldest first, among others; those after its end are not read.

    An ended run never changes: a rerun is a run of its own.
    """
    run = ServedRun(exchange_id, key)
    for event in events:
        if not _take(run, event) and run.ended:
            break
    return run


def folded_later_runs(events: Iterable[e.Event], exchange_id: str, key: str) -> Iterator[ServedRun]:
    """Yield the runs of an exchange from the events after its first end, oldest first, among others, without reruns.

    Each is yielded when it has ended, or when there are no more events. A request that had no attempt is no run.
    """
    run = ServedRun(exchange_id, key)
    for event in events:
        if run.version and not _take(run, event) and run.ended:
            if run.started:
                yield run
            run = ServedRun(exchange_id, key)
        if not run.version and _begins(event, exchange_id):
            _take(run, event)
        if run.started:
            run.rerun_id = run.started[0].run_id
    if run.started:
        yield run


def _begins(event: e.Event, exchange_id: str) -> bool:
    match event:
        case e.ExchangeRequested():
            return event.exchange_id == exchange_id
        case e.RunStarted():
            return event.exchange_id == exchange_id and event.rerun_of is None and not event.shadow
        case _:
            return False


def folded_rerun(events: Iterable[e.Event], started: e.RunStarted, key: str) -> ServedRun:
    """Return a run with which an exchange was run again, from the events since its start, oldest first, among others."""
    run = ServedRun(started.exchange_id, key, started.run_id)
    for event in events:
        if getattr(event, "run_id", None) != started.run_id:
            if run.ended:
                break
            continue
        _take(run, event)
        if isinstance(event, e.RunFailed):
            _end(run, "failed", event)
    return run


def _take(run: ServedRun, event: e.Event) -> bool:
    """Apply an event; return whether more events of the same commit may follow."""
    own = getattr(event, "exchange_id", None) == run.exchange_id
    if own or getattr(event, "run_id", "") in run.open_runs:
        run.newest_version = event.originator_version
    match event:
        case e.MessageJournaled() if own and not run.ended:
            _said(run, event)
        case e.MessageJournaled(run_id=run_id) if own and run.completed and run_id == run.completed[-1].run_id:
            _said(run, event)  # the answer, in the commit of the run's end
        case _ if run.ended:
            return False
        case e.ExchangeRequested() if own:
            if run.requested is None:
                run.requested, run.created_at = event, event.timestamp
            run.is_of_client = not event.background or event.surface == SURFACE
            run.version = run.version or event.originator_version
        case e.RunStarted() if own and not event.shadow:
            run.started.append(event)
            run.open_runs.add(event.run_id)
            run.created_at = run.created_at or event.timestamp
            run.version = run.version or event.originator_version
        case e.RunCompleted() if event.run_id in run.open_runs:
            run.open_runs.discard(event.run_id)
            run.completed.append(event)
            run.waits_for, run.of_calls = tuple(event.waits_for), event.run_id if event.goes_on else ""
            if not event.goes_on:
                _end(run, "completed", event)
                return True
        case e.RunFailed() if event.run_id in run.open_runs:
            run.open_runs.discard(event.run_id)
            run.failed = event
        case e.ExchangeAbandoned() if own:
            _end(run, _how_it_failed(run, event), event)
        case e.ExchangeCancelled() if own:
            _end(run, "cancelled", event)
    return run.ended == "completed" and run.ended_at == event.timestamp


def _end(run: ServedRun, status: str, event: e.Event) -> None:
    run.ended, run.ended_at, run.ended_version = status, event.timestamp, event.originator_version


def _said(run: ServedRun, event: e.MessageJournaled) -> None:
    run.version = run.version or event.originator_version
    run.created_at = run.created_at or event.timestamp
    message = restore_message(event)
    if message.tool_call_id is not None:
        run.results[message.tool_call_id] = message.text
        run.result_times[message.tool_call_id] = event.timestamp
    elif event.run_id is not None:
        run.said.append(SaidMessage(event, message))


def _how_it_failed(run: ServedRun, event: e.ExchangeAbandoned) -> str:
    if run.deadline is not None and to_iso(event.timestamp) >= run.deadline:
        return "expired"
    if run.pending and run.is_of_client:  # their results did not arrive
        return "expired"
    if run.failed is None:
        return "failed"
    if run.failed.status in {"expired", "cancelled"}:
        return run.failed.status
    return "incomplete" if is_cut_off(run.failed) else "failed"


SAID_ALL = frozenset({None, "stop", "end_turn", "stop_sequence"})
"""Reasons for which a model ends an answer by itself; None if it gave none."""


def is_cut_off(failed: e.RunFailed) -> bool:
    """Return whether a limit or a filter ended an answer; one that is empty for no such reason has failed."""
    failure = Failure.of(failed)
    reason = failure.details.get("finish_reason") or failure.details.get("incomplete_reason")
    if failure.code == "empty_answer" and reason in SAID_ALL:
        return False
    return diagnose(failure) is Cause.INCOMPLETE


def last_error(run: ServedRun) -> Json | None:
    """Return the error of a failed run: a code that the API has, and the provider's message with our cause and run id."""
    if run.ended != "failed":
        return None
    return error_object(run.failed)


def error_object(failed: e.RunFailed | None) -> Json:
    """Return the error of what ended with this failure, in the form of runs and responses."""
    if failed is None:
        return {"code": "server_error", "message": "No backend is configured, or the process that ran it stopped."}
    failure = Failure.of(failed)
    cause = diagnose(failure)
    code = failure.code if failure.code in CODES else None
    code = code or ("rate_limit_exceeded" if cause in RATE_LIMITED else "invalid_prompt" if cause in INVALID else None)
    facts = [
        f"HTTP {failure.http_status}" if failure.http_status else "",
        f"code {failure.code}" if failure.code else "",
    ]
    known = ", ".join(filter(None, [*facts, f"cause {cause.value}", f"run {failed.run_id}"]))
    message = redact(failure.message or failure.status, limit=MESSAGE_CHARS_MAX)
    return {"code": code or "server_error", "message": f"{message} ({known})"}


def usage_of(run: ServedRun) -> Json | None:
    """Return the tokens of all attempts; None until the run has ended."""
    if not run.ended:
        return None
    counts = [each.usage for each in run.completed]
    prompt, completion = (
        sum(int(each.get(name) or 0) for each in counts) for name in ("input_tokens", "output_tokens")
    )
    return objects.token_usage(prompt, completion)


def run_object(run: ServedRun, thread_id: str, profile: Profile | None) -> Json:
    """Return the API's object of a run."""
    request = run.requested.request if run.requested is not None else {}
    settings = profile.settings if profile is not None else {}
    answered = next((each.model for each in reversed(run.completed) if each.model), None)
    model = answered or (run.started[-1].model if run.started else run.requested.model if run.requested else "") or ""
    known = run.metadata if run.metadata is not None else run.requested.metadata if run.requested is not None else {}
    body = {
        **{name: request.get(name) for name in ("max_prompt_tokens", "max_completion_tokens", "truncation_strategy")},
        "model": model,
        "metadata": texts_in(known),
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "tool_choice": settings.get("tool_choice"),
    }
    assistant = {"id": request.get("assistant_id") or ""}
    assistant |= {name: settings.get(name, 1.0) for name in ("temperature", "top_p")}
    assistant["response_format"] = settings.get("response_format", "auto")
    instructions, tools = (profile.instructions, profile.tools) if profile is not None else ("", [])
    created = seconds(run.created_at) if run.created_at is not None else 0
    made = objects.run(run.name, created, thread_id, assistant, body, instructions=instructions, tools=tools)
    return made | _state_of(run)


def _state_of(run: ServedRun) -> Json:
    state: Json = {"status": run.status, "usage": usage_of(run), "last_error": last_error(run)}
    state["started_at"] = seconds(run.started[0].timestamp) if run.started else None
    state["expires_at"] = None
    if run.deadline is not None and run.ended in {"", "expired"}:
        state["expires_at"] = seconds(datetime.fromisoformat(run.deadline))
    ended = seconds(run.ended_at) if run.ended_at is not None else None
    if run.ended in {"completed", "incomplete"}:
        state["completed_at"] = ended
    elif run.ended in {"failed", "cancelled"}:
        state[f"{run.ended}_at"] = ended
    if run.ended == "incomplete":
        state["incomplete_details"] = {"reason": "max_completion_tokens"}
    if run.pending:
        state["required_action"] = objects.required_action(calls_of(run, run.pending))
    return state


def calls_of(run: ServedRun, ids: Iterable[str]) -> list[Json]:
    """Return the function calls with these ids, as the API has them."""
    wanted = {*ids}
    calls = (call for each in run.said for call in each.message.calls())
    return [objects.tool_call(call.id, call.name, call.arguments) for call in calls if call.id in wanted]


def steps_of(run: ServedRun, run_json: Json, with_content: bool = False) -> Iterator[Json]:
    """Yield the steps of a run, oldest first: each message that the model said, and each message with calls.

    Calls that have searched files have the passages only `with_content`.
    """
    search = search_name(run_json["tools"])
    for each in run.said:
        name, moment = wire_id(STEP, each.event.message_id), each.event.timestamp
        calls = each.message.calls()
        says = says_anything(each.message)
        if says or not calls:
            yield message_step(name, wire_id(MESSAGE, each.event.message_id), seconds(moment), run_json)
        if calls:
            step = _calls_step(run, f"{name}{CALLS}" if says else name, each, run_json)
            yield _with_searches(step, run, search, with_content) if search else step


def _with_searches(step: Json, run: ServedRun, name: str, with_content: bool) -> Json:
    """Return a step in which the calls that have searched files are shown as such."""
    calls = step["step_details"]["tool_calls"]
    shown = [_search_call(each, run, with_content) if each["function"]["name"] == name else each for each in calls]
    return step | {"step_details": {"type": "tool_calls", "tool_calls": shown}}


def _search_call(call: Json, run: ServedRun, with_content: bool) -> Json:
    results = [
        {"file_id": hit.file_id, "file_name": hit.filename, "score": hit.score}
        | ({"content": [{"type": "text", "text": hit.text}]} if with_content else {})
        for hit in hits_in(run.results.get(call["id"], ""))
    ]
    return objects.search_call(call["id"], results)


def message_step(step_id: str, message_id: str, created: int, run_json: Json, status: str = "completed") -> Json:
    """Return the step in which a run wrote a message."""
    details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
    step = objects.run_step(step_id, created, run_json, details)
    done = {"completed_at": created, "usage": objects.token_usage(0, 0)} if status == "completed" else {}
    return step | {"status": status} | done


def calls_step(
    step_id: str, calls: Sequence[ToolCall], results: Mapping[str, str], created: int, run_json: Json
) -> Json:
    """Return the step in which a run called functions, in progress, with the results that are known."""
    shown: list[Json] = []
    for call in calls:
        made = objects.tool_call(call.id, call.name, call.arguments)
        made["function"]["output"] = results.get(call.id)
        shown.append(made)
    return objects.run_step(step_id, created, run_json, {"type": "tool_calls", "tool_calls": shown})


def _calls_step(run: ServedRun, step_id: str, said: SaidMessage, run_json: Json) -> Json:
    calls = said.message.calls()
    step = calls_step(step_id, calls, run.results, seconds(said.event.timestamp), run_json)
    times = [run.result_times[call.id] for call in calls if call.id in run.result_times]
    if len(times) == len(calls):
        return step | {
            "status": "completed",
            "completed_at": seconds(max(times)),
            "usage": objects.token_usage(0, 0),
        }
    if run.ended in {"failed", "cancelled", "expired"} and run.ended_at is not None:
        return step | {
            "status": run.ended,
            f"{run.ended}_at": seconds(run.ended_at),
            "usage": objects.token_usage(0, 0),
        }
    return step
