"""Provide a dict that tracks which entries may have changed, so that only those are saved again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

Value = TypeVar("Value")
Other = TypeVar("Other")


class TrackedDict(dict[str, Value]):
    """Track the entries that are stored, deleted or read by key.

    Reading counts, because objects are changed in place. Iterating over the values does not count; code that changes
    one of them calls `touch`.
    """

    def __init__(self, entries: Mapping[str, Value] | None = None) -> None:
        super().__init__(entries or {})
        self._touched: dict[str, None] = {}

    def touch(self, key: str) -> None:
        """Mark an entry as possibly changed."""
        self._touched[key] = None

    def touched(self) -> Iterator[str]:
        """Return the keys of entries that may have changed or been deleted since the last `settle`.

        The keys are in the order in which they were touched.
        """
        return iter(list(self._touched))

    def settle(self) -> None:
        """Clear the marks after all changes have been saved."""
        self._touched.clear()

    def __getitem__(self, key: str) -> Value:
        value = super().__getitem__(key)
        self._touched[key] = None
        return value

    def __setitem__(self, key: str, value: Value) -> None:
        super().__setitem__(key, value)
        self._touched[key] = None

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._touched[key] = None

    @overload
    def get(self, key: str, default: None = None, /) -> Value | None: ...
    @overload
    def get(self, key: str, default: Value, /) -> Value: ...
    @overload
    def get(self, key: str, default: Other, /) -> Value | Other: ...
    def get(self, key: str, default: Any = None, /) -> Any:
        """Return an entry as `dict.get` does, and mark it as possibly changed if it exists."""
        if key in self:
            self._touched[key] = None
        return super().get(key, default)

    def add(self, entries: Iterable[tuple[str, Value]]) -> None:
        """Store several entries in this order."""
        for key, value in entries:
            self[key] = value
