"""Show an exchange while it streams: text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from .invocation import invocation
from .output import note, printable, short

if TYPE_CHECKING:
    from collections.abc import Generator

    from threadledger.domain import Answer, Chat, StartedOver, StreamPart

ARGUMENTS_SHOWN_CHARS = 80
"""Maximum characters of a tool call's arguments that are shown."""

NOT_THE_ANSWER = "[interrupted: this is not the answer]"
"""Line that ends the text of a failed run on stdout; the reason goes to stderr, which may be redirected elsewhere."""


def streamed(chat: Chat, text: str, idempotency_key: str | None = None) -> Answer:
    """Ask a question, show the answer while it arrives, and return it; with `-o json` and `csv` nothing is shown."""
    from threadledger.domain import Answer

    shown = _Shown() if invocation().output == "table" else None
    with closing(chat.stream(text, idempotency_key=idempotency_key)) as parts:
        for part in _until_closed(parts, shown):
            if shown is not None:
                shown.take(part)
            elif invocation().output == "jsonl" and not isinstance(part, Answer):
                click.echo(json.dumps({name: getattr(part, name) for name in _names(part)}, ensure_ascii=False))
            if isinstance(part, Answer):
                return part
    raise AssertionError("a stream ends with its answer, or raises")


def _until_closed(parts: Generator[StreamPart, None, Any], shown: _Shown | None) -> Generator[StreamPart, None, None]:
    """Yield the parts; if the stream ends early, end the printed line and mark its text as interrupted."""
    try:
        yield from parts
    except BaseException:
        if shown is not None:
            shown.break_off()
        raise


class _Shown:
    """Track what has been printed to stdout so far."""

    def __init__(self) -> None:
        self._at: tuple[str, int] | None = None
        """Run id and message number of the text printed last."""
        self._line_begun = False

    def take(self, part: StreamPart) -> None:
        """Print one part of the stream."""
        match part.type:
            case "delta":
                self._text(part.run_id, part.message, part.text)
            case "tool_use":
                self._end_line()
                note(f"calls {part.name} {printable(part.arguments[:ARGUMENTS_SHOWN_CHARS], lines=False)}")
            case "started_over":
                self._start_over(part)
            case "answer":
                if self._at is None or self._at[0] != part.run_id:
                    self._text(part.run_id, 0, part.text)
                self._end_line()
                self._at = None

    def break_off(self) -> None:
        """Mark the printed text as not being the answer."""
        if self._at is not None:
            self._end_line()
            click.echo(NOT_THE_ANSWER)
            self._at = None

    def _start_over(self, part: StartedOver) -> None:
        self.break_off()
        what = f"answering by fallback: {part.backend} ({part.model})" if part.fallback else f"retrying {part.backend}"
        note(f"run {short(part.failed_run_id)} on {part.from_backend} failed: {part.reason}; {what}")

    def _text(self, run_id: str, message: int, text: str) -> None:
        if self._at is not None and self._at != (run_id, message):
            self._end_line()
        self._at = (run_id, message)
        click.echo(printable(text) if sys.stdout.isatty() else text, nl=False)
        sys.stdout.flush()
        self._line_begun = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._line_begun:
            click.echo()
            self._line_begun = False


def _names(part: StreamPart) -> tuple[str, ...]:
    names: tuple[str, ...] = tuple(part.__dataclass_fields__)
    return names
