"""Build checks of JSON values from tables; each check raises the provider's 400 with the name of the wrong field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import bad_request, empty_array, missing, wrong_type
from .validation import an_object, array, function_name, one_of, string, unknown_field

Check = Callable[[Any, str], object]
"""A function that is given a value and the name of its field, and raises `ApiError` if the value is wrong."""

Fields = Mapping[str, Check]


def text(maximum: int | None = None, minimum: int = 0) -> Check:
    """Return a check for a string of `minimum` to `maximum` characters."""

    def check(value: Any, where: str) -> None:
        if len(string(value, where, maximum)) < minimum:
            expected = f"Expected a string with minimum length {minimum}, but got an empty string instead."
            raise bad_request(f"Invalid '{where}': empty string. {expected}", where, "empty_string")

    return check


def choice(*supported: str) -> Check:
    """Return a check for one of these strings."""
    return lambda value, where: one_of(value, where, supported)


def whole(low: int | None = None, high: int | None = None) -> Check:
    """Return a check for a whole number from `low` to `high`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type(where, "an integer", value)
        _require_within(value, where, low, high, "integer")

    return check


def decimal(low: float | None = None, high: float | None = None) -> Check:
    """Return a check for a number from `low` to `high`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong_type(where, "a decimal", value)
        _require_within(value, where, low, high, "decimal")

    return check


def _require_within(value: float, where: str, low: float | None, high: float | None, kind: str) -> None:
    # NaN, which JSON parsers accept, is not within any bounds.
    if high is not None and value > high:
        expected = f"Expected a value <= {_plain(high)}, but got {value} instead."
        raise bad_request(
            f"Invalid '{where}': {kind} above maximum value. {expected}", where, f"{kind}_above_max_value"
        )
    if low is not None and not value >= low:
        expected = f"Expected a value >= {_plain(low)}, but got {value} instead."
        raise bad_request(
            f"Invalid '{where}': {kind} below minimum value. {expected}", where, f"{kind}_below_min_value"
        )


def _plain(bound: float) -> str:
    """Return a number as people write it: a large whole one has no exponent."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def boolean(value: Any, where: str) -> None:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise wrong_type(where, "a boolean", value)


def anything(_value: Any, _where: str) -> None:
    """Accept every value."""


def listed(check: Check = anything, maximum: int | None = None, minimum: int = 0, of: str = "objects") -> Check:
    """Return a check for an array of `minimum` to `maximum` elements that each pass `check`; `of` says what they are."""

    def check_all(value: Any, where: str) -> None:
        elements = array(value, where, maximum, of)
        if len(elements) < minimum:
            raise empty_array(where)
        for index, each in enumerate(elements):
            check(each, f"{where}[{index}]")

    return check_all


def nullable(check: Check) -> Check:
    """Return a check that also accepts null."""
    return lambda value, where: None if value is None else check(value, where)


def mapping(check: Check) -> Check:
    """Return a check for an object whose values each pass `check`."""

    def check_all(value: Any, where: str) -> None:
        for name, each in an_object(value, where).items():
            check(each, f"{where}.{name}")

    return check_all


def record(required: Fields, optional: Fields | None = None, *, closed: bool = True) -> Check:
    """Return a check for an object with these fields; with `closed`, fields of other names are unknown."""
    others = optional or {}

    def check(value: Any, where: str) -> None:
        given = an_object(value, where)
        for name in required:
            if name not in given:
                raise missing(f"{where}.{name}")
        for name, each in [*given.items()]:
            field = required.get(name) or others.get(name)
            if field is not None:
                field(each, f"{where}.{name}")
            elif closed:
                unknown_field(f"{where}.{name}")
                del given[name]

    return check


def tagged(kinds: Mapping[str, Check]) -> Check:
    """Return a check for an object whose `type` selects one of these checks."""

    def check(value: Any, where: str) -> None:
        kind = an_object(value, where).get("type")
        if kind is None:
            raise missing(f"{where}.type")
        kinds[one_of(kind, f"{where}.type", tuple(kinds))](value, where)

    return check


def either(single: Check, *structured: Check, words: str) -> Check:
    """Return a check for a string that passes `single`, or a value of another type that passes one of the others.

    `words` describe what is expected. The refusal of the last check is raised if all refuse.
    """

    def check(value: Any, where: str) -> None:
        if isinstance(value, str):
            single(value, where)
        elif isinstance(value, dict | list):
            structured[isinstance(value, list) and len(structured) > 1](value, where)
        else:
            raise wrong_type(where, words, value)

    return check


def named(value: Any, where: str) -> None:
    """Check for the name of a function."""
    function_name(value, where)
