"""Read the provider's objects besides messages in dumps of the Assistants API: assistants, and the runs of threads.

An assistant is stored under its id, with what of it the ledger uses as a profile. The tools that only the provider could run
are named and not used. A run is kept as the provider shows it, with the first message that it wrote; one that wrote none, with
the message before it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.errors import InvalidInput, ThreadledgerError
from threadledger.domain.failures import redact
from threadledger.domain.ids import from_iso
from threadledger.domain.ledger import AssistantRecord, AssistantStore, Ledger

from .reading import Entry, Found, Imported, moment, seconds_of, source_id, storable_fields

ASSISTANT = "assistant"
"""What the field `object` of an assistant says."""

FIELD_BYTES_MAX = 4 * 1024
"""Maximum size of one field of a run, and of the fields of an assistant that have no place of their own, as JSON in bytes."""

RUNS_PER_MESSAGE_MAX = 50
"""Maximum number of runs that are kept with a message before them."""

WAS_DELETED = "an assistant with this id was deleted, and an import does not bring it back"
OTHER_ORIGIN = "there is another assistant with this id, which no import defined: it was not changed"

SETTINGS: Mapping[str, object] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "reasoning_effort": None,
    "response_format": "auto",
}
"""Fields that are settings of a profile, each with the value that the provider shows if none was given."""

_OWN = (
    *(
        "id",
        "object",
        "created_at",
        "model",
        "name",
        "description",
        "instructions",
        "tools",
        "tool_resources",
        "metadata",
    ),
    *SETTINGS,
)
"""Fields of an assistant that have a place in its record."""

_LEFT_OUT_OF_RUNS = ("object", "thread_id", "steps", "required_action")
"""Fields of a run that its place says, that its steps say, or that no longer matter."""

_LEFT_OUT_OF_STEPS = ("object", "thread_id", "run_id", "assistant_id", "type")
"""Fields of a run step that its run or its details say."""


@dataclass(frozen=True)
class FoundAssistant:
    """Represent an assistant read from a source. `left_out` counts, by kind, what the ledger does not use of it."""

    line: int
    record: AssistantRecord
    left_out: Mapping[str, int] = field(default_factory=dict)


Read = Found | FoundAssistant | Imported
"""What is read from a source: a conversation, an assistant, or why one could not be read."""


def found_assistants(objects: Iterable[Any], line: int) -> Iterator[FoundAssistant | Imported]:
    """Yield the assistants among the objects of a list, and the failure of each that cannot be read."""
    for each in objects:
        given = each if isinstance(each, Mapping) else {}
        try:
            yield _assistant(given, line)
        except ThreadledgerError as error:
            yield Imported(line, str(given.get("id") or ""), "failed", reason=str(error))


def import_assistant(ledger: Ledger, found: FoundAssistant) -> Imported:
    """Define an assistant as the source says, unless the last import said the same, and return the result."""
    record, store = found.record, AssistantStore(ledger.journal)
    line, name = found.line, record.assistant_id
    try:
        known = store.get(record.tenant, name)
        said = store.last_origin(record.tenant, name)
        if known is None and said:
            return Imported(line, name, "skipped", reason=WAS_DELETED)
        if said.get("digest") == record.origin["digest"]:
            return Imported(line, name, "unchanged", left_out=found.left_out)
        if known is not None and not said:
            return Imported(line, name, "failed", reason=OTHER_ORIGIN)
        store.define(record)
        return Imported(line, name, "imported" if known is None else "extended", left_out=found.left_out)
    except ThreadledgerError as error:
        return Imported(line, name, "failed", reason=str(error))


def _assistant(given: Mapping[str, Any], line: int) -> FoundAssistant:
    """Return an assistant.

    Raises:
        InvalidInput: it has no id or no model that can be stored.
    """
    name = source_id(given.get("id"), "an assistant")
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidInput(f"the assistant {name} has no model: nothing of it was imported")
    left_out: Counter[str] = Counter()
    fields = storable_fields({each: value for each, value in given.items() if each != "id"}, left_out)
    functions, dropped = _tools(fields.get("tools"), left_out)
    other = {each: value for each, value in fields.items() if each not in _OWN}
    if _size(other) > FIELD_BYTES_MAX:
        left_out["odd_fields"] += len(other)
        other = {}
    digest = sha256(json.dumps(given, sort_keys=True).encode("ascii")).hexdigest()
    created = moment(given.get("created_at"))
    record = AssistantRecord(
        name,
        model,
        Profile(
            _text(fields, "name"),
            _text(fields, "instructions"),
            None,
            json.dumps(functions),
            settings_json=json.dumps(
                {each: fields[each] for each, usual in SETTINGS.items() if fields.get(each) not in (None, usual)}
            ),
        ),
        created_at=from_iso(created) if created is not None else datetime.now(UTC),
        description=_text(fields, "description") or None,
        tool_resources=_mapping(fields.get("tool_resources")),
        dropped=tuple(dropped),
        metadata=_mapping(fields.get("metadata")),
        origin={"digest": digest, **({"other": other} if other else {})},
    )
    return FoundAssistant(line, record, left_out)


def _tools(given: Any, left_out: Counter[str]) -> tuple[list[Any], list[str]]:
    """Return the functions among tools, and the types of the others, which are counted."""
    functions: list[Any] = []
    dropped: dict[str, None] = {}
    for tool in given if isinstance(given, list) else ():
        match tool:
            case {"type": "function", "function": {"name": str()}}:
                functions.append(tool)
            case {"type": str(kind)} if kind != "function":
                dropped[kind] = None
                left_out[f"tool:{kind}"] += 1
            case _:
                left_out["unreadable_tools"] += 1
    return functions, list(dropped)


# Runs


def with_runs(
    entries: Sequence[Entry], runs: Iterable[Any], steps: Iterable[Any], left_out: Counter[str]
) -> tuple[Sequence[Entry], list[Any]]:
    """Return entries with the runs of their thread and the steps of these runs, and the runs that no entry precedes.

    A run is kept in the origin of its first message (`run`), or of the message before it (`runs`). Those that cannot be kept
    are counted.
    """
    given = _distinct(runs, left_out)
    if not given:
        return entries, []
    kept = list(entries)
    first: dict[object, int] = {}
    for number, entry in enumerate(kept):
        first.setdefault(entry.origin.get("run_id"), number)
    silent: defaultdict[int, list[Any]] = defaultdict(list)
    times, steps_of = _rising(kept), _by_run(steps)
    for run in given:
        facts, index = _facts(run, steps_of[run["id"]], left_out), first.get(run["id"])
        if index is not None:
            kept[index] = kept[index]._replace(origin={**kept[index].origin, "run": facts})
            continue
        created = seconds_of(run.get("created_at"))
        before = (len(times) if created is None else bisect_right(times, created)) - 1
        silent[before].append(facts)
    for place, group in silent.items():
        if len(group) > RUNS_PER_MESSAGE_MAX:
            left_out["runs"] += len(group) - RUNS_PER_MESSAGE_MAX
        if place >= 0:
            held = group[-RUNS_PER_MESSAGE_MAX:]
            kept[place] = kept[place]._replace(origin={**kept[place].origin, "runs": held})
    return kept, silent[-1][-RUNS_PER_MESSAGE_MAX:]


def _distinct(runs: Iterable[Any], left_out: Counter[str]) -> list[Mapping[str, Any]]:
    """Return the runs with an id, each once, oldest first."""
    by_id: dict[str, Mapping[str, Any]] = {}
    for number, run in enumerate(runs, 1):
        try:
            by_id.setdefault(source_id(_mapping(run).get("id"), f"run {number}"), run)
        except InvalidInput:
            left_out["runs"] += 1
    return sorted(by_id.values(), key=lambda each: seconds_of(each.get("created_at")) or 0.0)


def _rising(entries: Sequence[Entry]) -> list[float]:
    """Return the time of each entry, or of the one before it if that is later."""
    times: list[float] = []
    for entry in entries:
        at = float("-inf")
        with suppress(ValueError):  # a time that is none counts as unknown
            at = from_iso(entry.written_at).timestamp() if entry.written_at is not None else at
        times.append(max(at, times[-1] if times else at))
    return times


def _by_run(steps: Iterable[Any]) -> defaultdict[object, list[dict[str, Any]]]:
    """Return what is kept of the steps of each run, besides what its messages say."""
    found: defaultdict[object, list[dict[str, Any]]] = defaultdict(list)
    for step in map(_mapping, steps):
        if isinstance(step.get("id"), str) and isinstance(step.get("run_id"), str):
            said = _redacted({name: value for name, value in step.items() if name not in _LEFT_OUT_OF_STEPS})
            if not _has_hosted_calls(step):
                said.pop("step_details", None)
            found[step["run_id"]].append(said)
    return found


def _has_hosted_calls(step: Mapping[str, Any]) -> bool:
    calls = _mapping(step.get("step_details")).get("tool_calls")
    return isinstance(calls, list) and any(_mapping(call).get("type") != "function" for call in calls)


def _redacted(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a run or a step without the secrets in its error."""
    error = given.get("last_error")
    if isinstance(error, Mapping) and isinstance(error.get("message"), str):
        given["last_error"] = {**error, "message": redact(error["message"])}
    return given


def _facts(run: Mapping[str, Any], steps: list[dict[str, Any]], left_out: Counter[str]) -> dict[str, Any]:
    """Return what is kept of a run: each of its fields, unless it is too large; a secret in its error is not."""
    given = _redacted({name: value for name, value in run.items() if name not in _LEFT_OUT_OF_RUNS})
    if steps:
        given["steps"] = steps
    facts = storable_fields(given, left_out)
    large = [name for name, value in facts.items() if _size(value) > FIELD_BYTES_MAX]
    if large:
        left_out["run_fields"] += len(large)
    return {name: value for name, value in facts.items() if name not in large}


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
