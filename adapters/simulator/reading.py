"""Read typed values from a mapping that a person wrote; errors name the wrong key."""

from collections.abc import Iterable, Mapping
from typing import Any


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
