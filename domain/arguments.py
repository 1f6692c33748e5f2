"""Check the arguments of public calls by their annotations, before anything is read or written.

JSON and databases would store some values as others, and fail late on the rest, with an error of a foreign library.
`signatures.py` loads this module with the first call that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from functools import cache
from os import PathLike
from sys import float_info
from typing import Any, NamedTuple, TypeGuard

from .errors import InvalidInput
from .ids import moment_of

NUMBER_MAX = 2**63 - 1
"""Greatest number that the databases can store."""

SHORT_CHARS = 60
"""Maximum length of a value in the text of an error, in characters."""


class ArgumentKind(NamedTuple):
    """Describe the values that an annotation allows."""

    types: tuple[type, ...]
    words: str


KINDS: Mapping[str, ArgumentKind] = {
    "str": ArgumentKind((str,), "a text"),
    "int": ArgumentKind((int,), "a whole number"),
    "bool": ArgumentKind((bool,), "True or False"),
    "datetime": ArgumentKind((datetime,), "a datetime"),
    "timedelta": ArgumentKind((timedelta,), "a timedelta"),
    "Cause": ArgumentKind((str,), "a cause"),
    "Path": ArgumentKind((PathLike,), "a path"),
    "Iterable[str]": ArgumentKind((Iterable,), "a list of texts"),
    "Mapping[str, Any]": ArgumentKind((Mapping,), "a dict"),
    "Progress": ArgumentKind((Callable,), "a function"),  # type: ignore[arg-type] # it is a class for `isinstance`
    "None": ArgumentKind((type(None),), "None"),
}
"""Parts of annotations."""

EASY_TYPES = frozenset({str, int, bool, type(None)})
"""Types whose values are not looked into, except for numbers beyond a size."""

NAMED = frozenset({"AttachmentCopy", "Policy", "Profile", "RerunItem"})
"""Classes that are compared by name, because they need not be loaded for a check."""

ALIASES = {
    "Iterable[GroupState | str]": "Iterable[str]",
    "Callable[[str, int, int], None]": "Progress",
    "UpkeepProgress": "Progress",
}

CHECKED_ELSEWHERE = frozenset(
    {("key", "str"), ("key", "str | None"), ("new_key", "str"), ("after", "str"), ("after", "str | None")}
)
"""Parameters by name and annotation that have an error of their own: keys, cursors and hashes."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number that a float can hold, and neither a boolean, nor infinite or NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= float_info.max


def short(value: object) -> str:
    """Return a value for the text of an error; Python writes no whole number of more than 4,300 digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= SHORT_CHARS else f"{text[:SHORT_CHARS]}…"


def check(annotations: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call, in which the values of an iterator are a tuple; those without a kind are not checked.

    Args:
        annotations: the annotation of each parameter.
        given: the arguments by name.

    Raises:
        InvalidInput: a value has another type, or cannot be stored.
    """
    checked = dict(given)
    for name, value in given.items():
        annotation = annotations.get(name, "")
        wanted = _wanted(annotation)
        if wanted is not None and (name, annotation) not in CHECKED_ELSEWHERE:
            checked[name] = wanted.checked(name, value)
    return checked


def easy_types(name: str, annotations: Mapping[str, str]) -> frozenset[type] | None:
    """Return the exact types of a parameter that need no more than this check; None if its values are not checked at all."""
    wanted = _wanted(annotations[name])
    if wanted is None or (name, annotations[name]) in CHECKED_ELSEWHERE:
        return None
    return frozenset(wanted.types) & ({int, bool, type(None)} if PathLike in wanted.types else EASY_TYPES)


def check_path(name: str, path: object) -> None:
    """Check that the name of a file can be one.

    Raises:
        InvalidInput: it contains a NUL.
    """
    if "\0" in str(path):
        raise InvalidInput(f"{name} contains a NUL, as no file has in its name: correct the path")


class _Wanted(NamedTuple):
    """Hold what an annotation allows."""

    types: tuple[type, ...]
    names: frozenset[str]
    words: str

    def checked(self, name: str, value: Any) -> Any:
        """Return a value if it is allowed: itself, or all values of an iterator.

        Raises:
            InvalidInput: it is not.
        """
        if not self._allows(value):
            raise InvalidInput(f"{name} has type {type(value).__name__}: nothing was done; pass {self.words}")
        if PathLike in self.types:
            check_path(name, value)
        elif isinstance(value, (datetime, timedelta)):
            _check_moment(name, value)
        elif isinstance(value, int):
            if abs(value) > NUMBER_MAX:
                raise InvalidInput(f"{name} is a number of more than 63 bits: nothing was done; pass a smaller one")
        elif Iterable in self.types and value is not None and not isinstance(value, str):
            return _texts(name, value)
        return value

    def _allows(self, value: object) -> bool:
        if isinstance(value, bool):
            return bool in self.types
        if isinstance(value, (str, bytes, bytearray, memoryview)):
            return isinstance(value, str) and str in self.types
        return isinstance(value, self.types) or any(each.__name__ in self.names for each in type(value).__mro__)


def _check_moment(name: str, value: datetime | timedelta) -> None:
    try:
        moment_of(value)
    except OverflowError:
        raise InvalidInput(
            f"{name} is too far from now: nothing was read; pass a time of the years 1 to 9999"
        ) from None


def _texts(name: str, values: Iterable[object]) -> Collection[object]:
    texts = values if isinstance(values, Collection) else tuple(values)
    for each in texts:
        if not isinstance(each, str):
            raise InvalidInput(f"{name} holds a value of type {type(each).__name__}: nothing was done; pass texts")
        if not each.isascii() and any("\ud800" <= character <= "\udfff" for character in each):
            raise InvalidInput(f"{name} holds {short(each)}, which is no Unicode text: nothing was done; correct it")
    return texts


@cache
def _wanted(annotation: str) -> _Wanted | None:
    """Return what an annotation allows; None if its values are not checked here."""
    for alias, name in ALIASES.items():
        annotation = annotation.replace(alias, name)
    parts = annotation.split(" | ")
    if not all(part in KINDS or part in NAMED for part in parts):
        return None
    types = [kind for part in parts if part in KINDS for kind in KINDS[part].types]
    words = [KINDS[part].words if part in KINDS else f"a {part}" for part in parts]
    return _Wanted(tuple(types), frozenset(parts) & NAMED, " or ".join(dict.fromkeys(words)))
