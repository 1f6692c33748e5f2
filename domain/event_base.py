"""What all events have in common, and how one is made of its stored fields. The facts themselves stand in `events.py`."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, TypeVar

JSON = dict[str, Any]
E = TypeVar("E", bound="Event")


@dataclass(frozen=True, kw_only=True)
class Event:
    """What every event has: its stream, its version there (from 1, without gaps), when, and an id of its own."""

    SCHEMA: ClassVar[int] = 1
    """Number of the payload's form, stored with each row."""

    originator_id: str
    originator_version: int
    timestamp: datetime
    event_id: str


def make(event_class: type[E], payload: JSON, **columns: Any) -> E:
    """An event of these fields, the others at their default. What a frozen dataclass does itself, ten times as quick:
    a log of a million events would feel the difference.

    Raises:
        TypeError: a field is missing, or there is no such field.
    """
    shape = shape_of(event_class)
    if not shape.required <= payload.keys() <= shape.known:
        wrong = sorted(shape.required - payload.keys()) or sorted(payload.keys() - shape.known)
        raise TypeError(f"a {event_class.__name__} lacks, or does not know, {', '.join(wrong)}")
    event = object.__new__(event_class)
    values = vars(event)
    values.update(shape.defaults)
    for name, new in shape.factories:
        if name not in payload:
            values[name] = new()
    values.update(payload)
    values.update(columns)
    return event


@dataclass(frozen=True)
class Shape:
    """The own fields of an event's class."""

    required: frozenset[str]
    defaults: JSON
    factories: tuple[tuple[str, Callable[[], Any]], ...]
    """Of fields whose default is a dict or list: each event has one of its own."""
    known: frozenset[str]


def shape_of(event_class: type[Event]) -> Shape:
    """The own fields of an event's class, looked at once."""
    shape = _SHAPES.get(event_class)
    if shape is None:
        own = [each for each in fields(event_class) if each.name not in _COMMON]
        shape = _SHAPES[event_class] = Shape(
            frozenset(each.name for each in own if each.default is MISSING and each.default_factory is MISSING),
            {each.name: each.default for each in own if each.default is not MISSING},
            tuple((each.name, each.default_factory) for each in own if each.default_factory is not MISSING),
            frozenset(each.name for each in own),
        )
    return shape


def known_only(payload: JSON, known: frozenset[str]) -> JSON:
    """A payload without the fields that this version does not know."""
    return {name: value for name, value in payload.items() if name in known}


def own_fields(event_class: type[Event]) -> JSON:
    """The fields of a class beside the common ones, with their defaults (`MISSING` for those that must be given)."""
    own = _OWN_FIELDS.get(event_class)
    if own is None:
        own = _OWN_FIELDS[event_class] = {
            each.name: each.default if each.default_factory is MISSING else each.default_factory()
            for each in fields(event_class)
            if each.name not in _COMMON
        }
    return own


_COMMON = frozenset(each.name for each in fields(Event))
_SHAPES: dict[type[Event], Shape] = {}
_OWN_FIELDS: dict[type[Event], JSON] = {}
