"""Parse the script of a simulation, its answers and faults, from JSON; errors name the wrong key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..wire import APIS, ApiError, errors, route_named
from . import outputs
from .answers import ScriptedAnswer, ScriptedFailure, ScriptedToolCall
from .faults import (
    ACTIONS,
    BROKEN,
    CLEAN,
    ENVELOPE,
    EVERYWHERE,
    FLAT,
    Fault,
    Garbling,
    Hang,
    RawReply,
    Refusal,
    StreamError,
    Truncation,
)
from .rates import UNLIMITED, RateAllowance

USAGE = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
"""Numbers of tokens that a script can set."""


@dataclass(frozen=True)
class Script:
    """Hold the initial settings of a simulation.

    `seed` None means another seed every time.
    """

    seed: int | None = None
    answers: tuple[ScriptedAnswer, ...] = ()
    faults: tuple[Fault, ...] = ()
    retired_models: tuple[str, ...] = ()
    retired_apis: tuple[str, ...] = ()
    rate_limits: RateAllowance = UNLIMITED

    @classmethod
    def load(cls, path: str | Path) -> Script:
        """Read a script from a JSON file.

        Raises `ScriptError` if the file cannot be read, is not JSON or has invalid content.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"script {path}: cannot be read: {error}") from error
        try:
            return cls.parse(json.loads(text, object_pairs_hook=_object))
        except ScriptError as error:
            raise ScriptError(f"script {path}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ScriptError(f"script {path}: not JSON: {error}") from error

    @classmethod
    def parse(cls, value: Any) -> Script:
        """Read a script from a mapping.

        Raises `ScriptError` if the mapping is invalid.
        """
        reader = Reader(value, "")
        reader.only(("seed", "answers", "faults", "retired_models", "retired_apis", "rate_limits"))
        return cls(
            seed=reader.integer("seed", None),
            answers=parse_answers(reader.array("answers"), "answers"),
            faults=parse_faults(reader.array("faults"), "faults"),
            retired_models=reader.strings("retired_models"),
            retired_apis=reader.strings("retired_apis", APIS),
            rate_limits=parse_limits(reader.value("rate_limits") or {}, "rate_limits"),
        )


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of the file; one that has a key twice is refused, because only one value would count."""
    made = dict(pairs)
    for name, _ in pairs if len(made) < len(pairs) else ():
        if sum(each == name for each, _ in pairs) > 1:
            raise ScriptError(f"the key {name!r} is given more than once in an object: keep one of them")
    return made


def parse_answers(values: Sequence[Any], where: str) -> tuple[ScriptedAnswer, ...]:
    """Return answers: each is a string, {"tool_calls": [{"name": …, "arguments": {…}}]}, or {"output": [items]}."""
    return tuple(_answer(value, f"{where}[{index}]") for index, value in enumerate(values))


def parse_limits(value: Any, where: str = "") -> RateAllowance:
    """Return rate limits from {"requests_per_minute": …, "tokens_per_minute": …}; both keys are optional."""
    reader = Reader(value, where)
    names = ("requests_per_minute", "tokens_per_minute")
    reader.only(names)
    return RateAllowance(*(reader.integer(name, None, minimum=1) for name in names))


def _answer(value: Any, where: str) -> ScriptedAnswer:
    if isinstance(value, ScriptedAnswer):
        return value
    if isinstance(value, str):
        return ScriptedAnswer(value)
    if not isinstance(value, Mapping):
        raise ScriptError(f"{where}: must be a string or an object with tool_calls or output")
    reader = Reader(value, where)
    reader.only(("tool_calls", "output", "audio", "usage"))
    if reader.value("output") is not None or reader.value("audio") is not None:
        return _output(reader)
    calls = reader.array("tool_calls")
    if not calls:
        raise ScriptError(f"{where}.tool_calls: must be an array of at least one call")
    return ScriptedAnswer(
        tool_calls=tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)),
        usage=_usage(reader),
    )


def _output(reader: Reader) -> ScriptedAnswer:
    """Return an answer that is written as items of a response, with its sound if it has one."""
    try:
        output = outputs.parse_items(reader.array("output"), reader.name("output"))
    except ApiError as error:
        raise ScriptError(outputs.problem_of(error)) from error
    if reader.value("tool_calls") is not None:
        raise ScriptError(f"{reader.name('tool_calls')}: write the calls as items of output, with type function_call")
    calls = tuple(
        ScriptedToolCall(item["name"], item["arguments"], item.get("call_id"))
        for item in output
        if item["type"] == "function_call"
    )
    return ScriptedAnswer(outputs.text_of(output), calls, output, _audio(reader), _usage(reader))


def _audio(reader: Reader) -> dict[str, str] | None:
    if reader.value("audio") is None:
        return None
    inner = Reader(reader.value("audio"), reader.name("audio"))
    inner.only(("data", "transcript"))
    return {"data": inner.required_string("data"), "transcript": inner.string("transcript", None) or ""}


def _usage(reader: Reader) -> dict[str, int]:
    inner = Reader(reader.value("usage") or {}, reader.name("usage"))
    inner.only(USAGE)
    counts = {name: inner.integer(name, None, minimum=0) for name in USAGE}
    return {name: count for name, count in counts.items() if count is not None}


def _tool_call(value: Any, where: str) -> ScriptedToolCall:
    reader = Reader(value, where)
    reader.only(("name", "arguments"))
    arguments = reader.value("arguments", {})
    # A string is sent unchanged, so that a script can also send arguments that are not JSON.
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ScriptedToolCall(reader.required_string("name"), text)


ENDS = ("expired", "cancelled")


def parse_faults(values: Sequence[Any], where: str) -> tuple[Fault, ...]:
    """Return the faults described by a list of mappings; `faults.Fault` documents their keys."""
    return tuple(parse_fault(value, f"{where}[{index}]") for index, value in enumerate(values))


def parse_fault(value: Any, where: str = "fault") -> Fault:
    """Return a `Fault` from a mapping, or check a given `Fault`.

    Raises `ScriptError`, which names the wrong key.
    """
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
        hang=_hang(reader) if actions == ["hang"] else None,
        ignore=reader.number("ignore", 0.0) if actions == ["ignore"] else None,
        land_late=reader.integer("land_late", None, minimum=1),
        reply=_reply(reader) if actions == ["reply"] else None,
        slow=reader.number("slow", 0.0) if actions == ["slow"] else None,
        truncate=_truncation(reader) if actions == ["truncate"] else None,
        garble=_garbling(reader) if actions == ["garble"] else None,
        error_event=_stream_error(reader) if actions == ["error_event"] else None,
        thread_gone=reader.boolean("thread_gone"),
        gone=reader.boolean("gone"),
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
            "write routes without /v1, as in 'POST /threads/{thread_id}/runs', or '*' for every route"
        )
    return route.name


def _require_fitting_place(fault: Fault, action: str, where: str) -> None:
    route = route_named(fault.on)
    if route is not None and not fault.fits(route):
        raise ScriptError(
            f"{where}.{action}: cannot happen to {fault.on}; it needs a stream, a thread or a kind of answer "
            "that this route does not have; choose another route or action"
        )


def _refusal(reader: Reader) -> Refusal:
    value = reader.value("refuse")
    if isinstance(value, Refusal):
        return value
    inner = Reader(value, reader.name("refuse"))
    inner.only(("status", "message", "type", "code", "param", "headers"))
    status = inner.integer("status", None, minimum=400, maximum=599)
    if status is None:
        raise ScriptError(f"{inner.name('status')}: is missing")
    kind, code, param = (inner.string(name, None) for name in ("type", "code", "param"))
    # If the code identifies the error, use the provider's message.
    locked = code == "conversation_locked"
    message = inner.string("message", None) or (errors.LOCKED if locked else Refusal(status).message)
    param = param or ("conversation" if locked else None)
    return Refusal(status, message, kind, code, param, inner.string_pairs("headers"))


def _failure(reader: Reader) -> ScriptedFailure:
    value = reader.value("fail")
    if value is True:
        return ScriptedFailure()
    if isinstance(value, ScriptedFailure):
        return value
    inner = Reader(value, reader.name("fail"))
    inner.only(("code", "message"))
    usual = ScriptedFailure()
    return ScriptedFailure(inner.string("code", None) or usual.code, inner.string("message", None) or usual.message)


def _reply(reader: Reader) -> RawReply:
    value = reader.value("reply")
    if isinstance(value, RawReply):
        return value
    inner = Reader(value, reader.name("reply"))
    inner.only(("status", "content_type", "text"))
    usual = RawReply("")
    status = inner.integer("status", usual.status, minimum=200, maximum=599) or usual.status
    return RawReply(inner.string("text", None) or "", status, inner.string("content_type", None) or usual.content_type)


def _hang(reader: Reader) -> float | Hang:
    value = reader.value("hang")
    if isinstance(value, Hang):
        return value
    if not isinstance(value, Mapping):
        return reader.number("hang", 0.0)
    inner = Reader(value, reader.name("hang"))
    inner.only(("seconds", "events"))
    return Hang(inner.number("seconds", 0.0), _events(inner))


def _truncation(reader: Reader) -> Truncation:
    value = reader.value("truncate")
    if isinstance(value, Truncation):
        return value
    inner = Reader(value, reader.name("truncate"))
    inner.only(("events", "kind", "done"))
    kind = inner.string("kind", CLEAN, (CLEAN, BROKEN)) or CLEAN
    return Truncation(_events(inner), kind, inner.boolean("done", default=True))


def _garbling(reader: Reader) -> Garbling:
    value = reader.value("garble")
    if isinstance(value, Garbling):
        return value
    inner = Reader(value, reader.name("garble"))
    inner.only(("events",))
    return Garbling(_events(inner))


def _stream_error(reader: Reader) -> StreamError:
    value = reader.value("error_event")
    if isinstance(value, StreamError):
        return value
    inner = Reader(value, reader.name("error_event"))
    inner.only(("events", "form", "code", "message"))
    usual = StreamError()
    form = inner.string("form", FLAT, (FLAT, ENVELOPE)) or FLAT
    code, message = inner.string("code", None) or usual.code, inner.string("message", None) or usual.message
    return StreamError(_events(inner), form, code, message)


def _events(reader: Reader) -> int:
    return reader.integer("events", 0, minimum=0) or 0


class ScriptError(ValueError):
    """Raised when a script, a fault or an answer is invalid.

    The message is one sentence that names the key: `faults[2].refuse.status: must be …`.
    """


class Reader:
    """Read typed values from a mapping.

    `where` is the mapping's place in the script. Absent keys return the default; wrong values raise `ScriptError`.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ScriptError(f"{where or 'script'}: must be an object, not {_shown(value)}")
        self._values: Mapping[str, Any] = value
        self._where = where

    def name(self, key: str) -> str:
        """Return a key with its place, such as `faults[0].on`."""
        return f"{self._where}.{key}" if self._where else key

    def only(self, known: Iterable[str]) -> None:
        """Raise `ScriptError` for unknown keys, so that a typing error does not pass silently."""
        names = tuple(known)
        for key in self._values:
            if key not in names:
                raise ScriptError(f"{self.name(str(key))}: unknown key; known keys are {', '.join(names)}")

    def value(self, key: str, default: Any = None) -> Any:
        """Return the value of a key without checking it."""
        return self._values.get(key, default)

    def string(self, key: str, default: str | None, allowed: tuple[str, ...] = ()) -> str | None:
        """Return a string, which must be one of `allowed` if that is given."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        if allowed and value not in allowed:
            raise self._wrong(key, f"one of {', '.join(allowed)}", value)
        return value

    def required_string(self, key: str) -> str:
        """Return a string that must be present and not empty."""
        value = self.string(key, None)
        if not value:
            raise ScriptError(f"{self.name(key)}: is missing")
        return value

    def integer(
        self, key: str, default: int | None, *, minimum: int | None = None, maximum: int | None = None
    ) -> int | None:
        """Return a whole number within bounds; an explicit null returns None."""
        value = self._values.get(key, default)
        if value is None:
            return None
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise self._wrong(key, f"a whole number{_bounds(minimum, maximum)}", value)
        return int(value)

    def number(self, key: str, default: float, *, maximum: float | None = None) -> float:
        """Return a number from 0 to `maximum`."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or (maximum or value) < value:
            raise self._wrong(key, f"a number{_bounds(0, maximum)}", value)
        return float(value)

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return true or false, or the default if the key is absent."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def array(self, key: str) -> list[Any]:
        """Return a list, empty if the key is absent."""
        value = self._values.get(key, [])
        if not isinstance(value, list | tuple):
            raise self._wrong(key, "an array", value)
        return list(value)

    def strings(self, key: str, allowed: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return a list of strings, each one of `allowed` if that is given."""
        values = self.array(key)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self._wrong(f"{key}[{index}]", "a string", value)
            if allowed and value not in allowed:
                raise self._wrong(f"{key}[{index}]", f"one of {', '.join(allowed)}", value)
        return tuple(values)

    def string_pairs(self, key: str) -> dict[str, str]:
        """Return an object of strings.

        Numbers are converted to strings, because headers are often written as numbers.
        """
        inner = Reader(self._values.get(key) or {}, self.name(key))
        for name, value in inner._values.items():
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise inner._wrong(name, "a string", value)
        return {name: str(value) for name, value in inner._values.items()}

    def _wrong(self, key: str, expected: str, value: Any) -> ScriptError:
        return ScriptError(f"{self.name(key)}: must be {expected}, not {_shown(value)}")


def _bounds(minimum: float | None, maximum: float | None) -> str:
    lower = "" if minimum is None else f" from {minimum:g}"
    return lower if maximum is None else f"{lower} to {maximum:g}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
