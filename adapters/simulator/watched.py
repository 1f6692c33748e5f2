"""A dict that knows which of its entries may have changed, so that only those are written down again."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

Value = TypeVar("Value")
Other = TypeVar("Other")


class Watched(dict[str, Value]):
    """An entry counts as touched when it is put in, taken out, or handed out by its key: objects are changed in place.

    Going through the values touches nothing; whoever changes one of those says so with `touch`.
    """

    def __init__(self, entries: Mapping[str, Value] | None = None) -> None:
        super().__init__(entries or {})
        self._touched: dict[str, None] = {}

    def touch(self, key: str) -> None:
        """This entry may have changed."""
        self._touched[key] = None

    def touched(self) -> Iterator[str]:
        """The keys of entries that may have changed or gone since the last `settle`, in the order they were touched."""
        return iter(list(self._touched))

    def settle(self) -> None:
        """Everything is written down."""
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
        """As of a dict; what is found is touched."""
        if key in self:
            self._touched[key] = None
        return super().get(key, default)

    def add(self, entries: Iterable[tuple[str, Value]]) -> None:
        """Put several in, in this order."""
        for key, value in entries:
            self[key] = value
