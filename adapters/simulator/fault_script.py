"""Parse faults from mappings; errors name the wrong key."""

from collections.abc import Mapping, Sequence
from typing import Any

from .disruptions import BROKEN, CLEAN, ENVELOPE, FLAT, Garbling, Hang, StreamError, Truncation
from .errors import LOCKED
from .faults import ACTIONS, EVERYWHERE, Fault, RawReply, Refusal
from .outcomes import Failure
from .reading import Reader, ScriptError
from .routes import route_named

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
    # Where the code identifies the error, use the provider's message.
    locked = code == "conversation_locked"
    message = inner.string("message", None) or (LOCKED if locked else Refusal(status).message)
    param = param or ("conversation" if locked else None)
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
