"""Read the bytes of a response as they pass to the app; the state they show is recorded before the app receives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .outcomes import Context, Seen
from .refusals import trouble
from .streams import Fold, fold_of


@dataclass(frozen=True)
class Record:
    """Hold a state of a run and the function that records it."""

    seen: Seen
    to: Callable[[Seen], None]


class Passing:
    """Follow one response body; each method returns what must be recorded, or None."""

    def __init__(
        self,
        see: Callable[[Seen], None],
        broke: Callable[[Seen], None],
        context: Context,
        events: bool,
        decode: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Create the reader. `decode` decodes a complete body with a content encoding; such a body is read at its end."""
        self._see = see
        self._broke = broke
        self._context = context
        self._fold: Fold = fold_of(context, events)
        self._decode = decode
        self._raw = bytearray()
        self._told: Seen | None = None
        self._over = False

    def take(self, chunk: bytes) -> Record | None:
        """Read the next bytes of the body."""
        if self._decode is not None:
            self._raw += chunk
            return None
        self._fold.take(chunk)
        return self._news()

    def end(self) -> Record | None:
        """Handle the end of the body."""
        return self._last(self._fold.end, self._see)

    def broke(self, error: BaseException, request: Any) -> Record | None:
        """Handle a broken connection or a cancelled task."""
        return self._last(lambda: self._fold.stopped(trouble(error, request, self._context)), self._broke)

    def closed(self) -> Record | None:
        """Handle a response that the app closed before its end."""
        return self._last(self._fold.closed, self._broke)

    def _news(self) -> Record | None:
        seen = self._fold.seen
        ended = seen.outcome is not None or seen.unread
        if self._over or seen == self._told or (not ended and seen.remote_id is None):
            return None
        self._told, self._over = seen, ended
        return Record(seen, self._see)

    def _last(self, look: Callable[[], Seen], to: Callable[[Seen], None]) -> Record | None:
        if self._over:
            return None
        if self._decode is not None:
            try:
                self._fold.take(self._decode(bytes(self._raw)))
            except Exception:  # noqa: BLE001 - a body that cannot be decoded contains no state; the app gets the same error
                self._raw.clear()
        self._over = True
        return Record(look(), to)
