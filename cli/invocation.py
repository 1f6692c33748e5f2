"""What every command shares: the options that go before or after its name, and how it opens the ledger."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from threadledger.adapters import Settings
    from threadledger.domain import Ledger

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "jsonl", "csv")
LOG_FORMATS = ("text", "json")

VERSION_DIGITS_MAX = 18
"""Digits of a version: what a database keeps as a number."""

GIVEN_CHARS_MAX = 60
"""What a sentence shows of a value that cannot be used."""


@dataclass
class Invocation:
    """The shared options of one call."""

    db: str | None = None
    output: str = "table"
    verbose: bool = False
    log_format: str | None = None


def invocation() -> Invocation:
    """The shared options of the call under way."""
    root = click.get_current_context().find_root()
    if not isinstance(root.obj, Invocation):
        root.obj = Invocation()
    return root.obj


def common(command: F) -> F:
    """Add the shared options to a command or group; given twice, the one nearer to the end wins."""
    options = (
        click.option(
            "--db", type=TextParameter(), metavar="URL", help="The database, as a SQLAlchemy URL.", **_shared("db")
        ),
        click.option(
            "-o",
            "output_",
            type=click.Choice(FORMATS),
            metavar="FORMAT",
            help="table, json, jsonl or csv.",
            **_shared("output"),
        ),
        click.option(
            "-v", "verbose", is_flag=True, default=None, help="Tell on stderr what goes on.", **_shared("verbose")
        ),
        click.option(
            "--log-format",
            "log_format_",
            type=click.Choice(LOG_FORMATS),
            metavar="FORMAT",
            help="Log lines on stderr as text, or as JSON: a line for each run.",
            **_shared("log_format"),
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_settings(**options: Any) -> Settings:
    """The settings, with the option `--db` on top, and with these."""
    from threadledger.adapters import load_settings as load

    return load(db=invocation().db, log_format=invocation().log_format, **options)


@contextmanager
def opened(*, create: bool = False, **options: Any) -> Iterator[Ledger]:
    """The ledger of the settings, of which `options` win; a command that only reads never makes a database."""
    from threadledger.adapters import open_ledger

    settings = load_settings(**options)
    _set_up_logging(settings.log_format)
    ledger = open_ledger(settings, create=create)
    try:
        yield ledger
    finally:
        ledger.close()


class TextParameter(click.ParamType[str]):
    """Text in UTF-8; with `stdin`, `-` reads it from standard input."""

    name = "text"

    def __init__(self, *, stdin: bool = False) -> None:
        self._stdin = stdin

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, or a usage error that says what to give."""
        if self._stdin and value == "-":
            try:
                return sys.stdin.buffer.read().decode("utf-8")
            except UnicodeDecodeError as error:
                self.fail(f"standard input is not UTF-8 text (byte {error.start}): convert it first.", param, ctx)
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self.fail(f"the text is not UTF-8 (character {error.start + 1}): give it in UTF-8.", param, ctx)
        return text


class MomentParameter(click.ParamType["datetime | int"]):
    """A time (ISO 8601) or a span back from now (`90s`, `30m`, `24h`, `7d`); with `versions`, a version too."""

    name = "time"

    def __init__(self, *, versions: bool = False) -> None:
        self._versions = versions

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | int:
        """The moment, or a usage error that says what to give."""
        from threadledger.domain import from_iso, now

        if isinstance(value, (datetime, int)):
            return value
        if self._versions and re.fullmatch(rf"[0-9]{{1,{VERSION_DIGITS_MAX}}}", str(value)):
            return int(value)
        span = re.fullmatch(r"([0-9]+)([smhdw])", str(value))
        if span:
            units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
            try:
                return now() - timedelta(**{units[span[2]]: int(span[1])})
            except (OverflowError, ValueError):  # Python reads no number of more than 4,300 digits
                self.fail(f"{_short(value)} is further back than time goes.", param, ctx)
        try:
            return from_iso(str(value))
        except ValueError:
            version = "a version, " if self._versions else ""
            self.fail(
                f"{_short(value)} is no time: give {version}ISO 8601, or a span back from now like 24h or 7d.",
                param,
                ctx,
            )


def _short(value: object) -> str:
    """What was given, for a sentence."""
    told = repr(value)
    return told if len(told) <= GIVEN_CHARS_MAX else f"{told[:GIVEN_CHARS_MAX]}…"


KEY = TextParameter()
TEXT = TextParameter(stdin=True)


def complete_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The keys of the database, for the shell's completion; none where there is no database."""
    try:
        with ctx.scope(cleanup=False), opened() as ledger:
            return [state.key for state in ledger.conversations() if state.key.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a completion that fails must not disturb the prompt
        return []


def _shared(name: str) -> dict[str, Any]:
    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        root = ctx.find_root()
        if not isinstance(root.obj, Invocation):
            root.obj = Invocation()
        if value is not None:
            setattr(root.obj, name, value)

    return {"expose_value": False, "callback": keep}


class _Stderr(logging.Handler):
    """Log lines to where stderr is at the moment: all of them with -v, or as JSON for whoever collects them; else errors and
    threads that lag behind (a failed run is told by the command itself)."""

    everything = False

    def filter(self, record: logging.LogRecord) -> bool:
        return self.everything or record.levelno >= logging.ERROR or record.name == "threadledger.threads"

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _set_up_logging(log_format: str) -> None:
    logger = logging.getLogger("threadledger")
    handler = next((each for each in logger.handlers if isinstance(each, _Stderr)), None)
    if handler is None:
        handler = _Stderr()
        logger.addHandler(handler)
    if log_format == "json":
        from threadledger.adapters import JsonFormatter

        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.everything = invocation().verbose or log_format == "json"
    logger.setLevel(logging.INFO if handler.everything else logging.NOTSET)
