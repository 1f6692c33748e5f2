"""The script of a simulation: answers and faults from JSON, refused with the name of the key that is wrong."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .answers import Answer, ToolCall
from .faults import EVERYWHERE, Fault, RawReply, Refusal
from .outcomes import Failure
from .reading import Reader, ScriptError
from .routes import APIS, route_named

ENDS = ("expired", "cancelled")
ACTIONS = ("refuse", "fail", "incomplete", "end", "drop", "lose_answer", "hang", "land_late", "reply")


@dataclass(frozen=True)
class Script:
    """What a simulation is told beforehand. `seed` None: another one every time."""

    seed: int | None = None
    answers: tuple[Answer, ...] = ()
    faults: tuple[Fault, ...] = ()
    retired_models: tuple[str, ...] = ()
    retired_apis: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> "Script":
        """Read a JSON file; ScriptError where it cannot be read, is not JSON or says something unknown."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"script {path}: cannot be read: {error}") from error
        try:
            return cls.parse(json.loads(text))
        except json.JSONDecodeError as error:
            raise ScriptError(f"script {path}: not JSON: {error}") from error
        except ScriptError as error:
            raise ScriptError(f"script {path}: {error}") from error

    @classmethod
    def parse(cls, value: Any) -> "Script":
        """The same from a mapping."""
        reader = Reader(value, "")
        reader.only(("seed", "answers", "faults", "retired_models", "retired_apis"))
        return cls(
            seed=reader.integer("seed", None),
            answers=parse_answers(reader.array("answers"), "answers"),
            faults=parse_faults(reader.array("faults"), "faults"),
            retired_models=reader.strings("retired_models"),
            retired_apis=reader.strings("retired_apis", APIS),
        )


def parse_answers(values: Sequence[Any], where: str) -> tuple[Answer, ...]:
    """Answers: a string, or {"tool_calls": [{"name": …, "arguments": {…}}]}."""
    return tuple(_answer(value, f"{where}[{index}]") for index, value in enumerate(values))


def parse_faults(values: Sequence[Any], where: str) -> tuple[Fault, ...]:
    """Faults, each a mapping as the module `faults` describes it."""
    return tuple(parse_fault(value, f"{where}[{index}]") for index, value in enumerate(values))


def parse_fault(value: Any, where: str = "fault") -> Fault:
    """A `Fault` from a mapping; ScriptError names the key that is wrong."""
    if isinstance(value, Fault):
        value = {name: given for name, given in vars(value).items() if given is not None or name == "times"}
    reader = Reader(value, where)
    reader.only(("on", "times", "after", "probability", *ACTIONS))
    actions = [name for name in ACTIONS if reader.value(name) not in (None, False)]
    if len(actions) != 1:
        found = ", ".join(actions) or "none"
        raise ScriptError(f"{where}: needs exactly one action of {', '.join(ACTIONS)}; found {found}")
    fault = Fault(
        on=_place(reader),
        times=reader.integer("times", 1, minimum=1),
        after=reader.integer("after", 0, minimum=0) or 0,
        probability=reader.number("probability", 1.0, maximum=1.0),
        refuse=_refusal(reader) if actions == ["refuse"] else None,
        fail=_failure(reader) if actions == ["fail"] else None,
        incomplete=reader.string("incomplete", None),
        end=reader.string("end", None, ENDS),
        drop=reader.boolean("drop"),
        lose_answer=reader.boolean("lose_answer"),
        hang=reader.number("hang", 0.0) if actions == ["hang"] else None,
        land_late=reader.integer("land_late", None, minimum=1),
        reply=_reply(reader) if actions == ["reply"] else None,
    )
    _require_fitting_place(fault, actions[0], where)
    return fault


def _place(reader: Reader) -> str:
    on = reader.required_string("on")
    if on == EVERYWHERE:
        return on
    route = route_named(on)
    if route is None:
        raise ScriptError(
            f"{reader.name('on')}: no such route {on!r}; "
            "routes are written without /v1, as in 'POST /threads/{thread_id}/runs', or '*' for any"
        )
    return route.name


def _require_fitting_place(fault: Fault, action: str, where: str) -> None:
    route = route_named(fault.on)
    if route is not None and not fault.concerns(route):
        raise ScriptError(
            f"{where}.{action}: cannot happen to {fault.on}; no model is asked there, or it cannot end so"
        )


def _answer(value: Any, where: str) -> Answer:
    if isinstance(value, Answer):
        return value
    if isinstance(value, str):
        return Answer(value)
    if not isinstance(value, Mapping):
        raise ScriptError(f"{where}: must be a string or an object with tool_calls")
    reader = Reader(value, where)
    reader.only(("tool_calls",))
    calls = reader.array("tool_calls")
    if not calls:
        raise ScriptError(f"{where}.tool_calls: must be an array of at least one call")
    return Answer(tool_calls=tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)))


def _tool_call(value: Any, where: str) -> ToolCall:
    reader = Reader(value, where)
    reader.only(("name", "arguments"))
    arguments = reader.value("arguments", {})
    # Text goes out as it stands, so that a script can also send arguments that are not JSON.
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCall(reader.required_string("name"), text)


def _refusal(reader: Reader) -> Refusal:
    value = reader.value("refuse")
    if isinstance(value, Refusal):
        return value
    inner = Reader(value, reader.name("refuse"))
    inner.only(("status", "message", "type", "code", "param", "headers"))
    status = inner.integer("status", None, minimum=400, maximum=599)
    if status is None:
        raise ScriptError(f"{inner.name('status')}: is missing")
    message = inner.string("message", None) or Refusal(status).message
    kind, code, param = (inner.string(name, None) for name in ("type", "code", "param"))
    return Refusal(status, message, kind, code, param, inner.string_pairs("headers"))


def _failure(reader: Reader) -> Failure:
    value = reader.value("fail")
    if value is True:
        return Failure()
    if isinstance(value, Failure):
        return value
    inner = Reader(value, reader.name("fail"))
    inner.only(("code", "message"))
    usual = Failure()
    return Failure(inner.string("code", None) or usual.code, inner.string("message", None) or usual.message)


def _reply(reader: Reader) -> RawReply:
    value = reader.value("reply")
    if isinstance(value, RawReply):
        return value
    inner = Reader(value, reader.name("reply"))
    inner.only(("status", "content_type", "text"))
    usual = RawReply("")
    status = inner.integer("status", usual.status, minimum=200, maximum=599) or usual.status
    return RawReply(inner.string("text", None) or "", status, inner.string("content_type", None) or usual.content_type)
