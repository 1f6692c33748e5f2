"""Define what all commands share: global options, parameter types, exit codes, and how a command opens the ledger.

Every error is printed as one sentence on stderr; a traceback is printed only if `THREADLEDGER_DEBUG` is set. Commands
are loaded only when they are used (`LazyGroup`), so that `--version` and `--help` stay fast.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from .terminal import printable, safe_json, safe_output

if TYPE_CHECKING:
    from threadledger.adapters import Settings
    from threadledger.domain.ledger import Ledger

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "json", "jsonl", "csv")
LOG_FORMATS = ("text", "json")

VERSION_DIGITS_MAX = 18
"""Maximum digits of a version, so that it fits into a database integer."""

GIVEN_CHARS_MAX = 60
"""Maximum characters of an invalid value shown in an error message."""


class Invocation:
    """Hold the global options of one invocation."""

    db: str | None = None
    tenant: str | None = None
    output: str = "table"
    csv_raw: bool = False
    verbose: bool = False
    log_format: str | None = None
    arguments: Sequence[str] = ()
    """The whole command line, without the name of the program."""


OPEN_LEDGERS = click.option(
    "--open-ledgers",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    metavar="N",
    help="Maximum number of tenants' ledgers open at a time, if each tenant has one.",
)


def invocation() -> Invocation:
    """Return the global options of the current invocation."""
    root = click.get_current_context().find_root()
    if not isinstance(root.obj, Invocation):
        root.obj = Invocation()
    return root.obj


def common(command: F) -> F:
    """Add the global options to a command or group; if an option is given twice, the last one wins."""
    options = (
        click.option(
            "--db",
            type=TextParameter(),
            metavar="FILE|URL",
            help="Database: a SQLite file, or a URL.",
            **_shared("db"),
        ),
        click.option(
            "-o",
            "output_",
            type=click.Choice(FORMATS),
            metavar="FORMAT",
            help="Output format: table, json, jsonl or csv.",
            **_shared("output"),
        ),
        click.option(
            "--csv-raw",
            "csv_raw_",
            is_flag=True,
            default=None,
            help="CSV without the ' before cells that a spreadsheet would execute.",
            **_shared("csv_raw"),
        ),
        click.option(
            "-v", "verbose", is_flag=True, default=None, help="Verbose: log progress to stderr.", **_shared("verbose")
        ),
        click.option(
            "--log-format",
            "log_format_",
            type=click.Choice(LOG_FORMATS),
            metavar="FORMAT",
            help="Log format on stderr: text, or json with one line per run.",
            **_shared("log_format"),
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_settings(**options: Any) -> Settings:
    """Load the settings; `--db`, `--log-format` and the given options take precedence."""
    from threadledger.adapters import load_settings as load

    given = invocation()
    settings = load(db=given.db, tenant=given.tenant, log_format=given.log_format, **options)
    if settings.depends_on_folder:
        from threadledger.adapters import FolderTrust

        FolderTrust.check(settings)
    return settings


@contextmanager
def opened(
    *, create: bool = False, reads: bool = False, primary: bool = False, sends: bool = False, **options: Any
) -> Iterator[Ledger]:
    """Open the ledger of the settings, overridden by `options`.

    The database is created only if `create` is set; with `reads`, nothing is created or upgraded, and the replica of the
    settings is read, if there is one, except with `primary`, for a command that must not be behind. `sends` says that the
    command sends something to the provider: it is refused before it stores anything if the working folder needs trust
    for that.
    """
    settings = load_settings(**options)
    with opened_with(settings, create=create, reads=reads, primary=primary, sends=sends) as ledger:
        yield ledger


@contextmanager
def opened_with(
    settings: Settings,
    *,
    create: bool = False,
    reads: bool = False,
    primary: bool = False,
    sends: bool = False,
    stays: bool = False,
) -> Iterator[Ledger]:
    """Open the ledger of settings that are loaded already; see `opened`. With `stays`, the process serves for a long time."""
    from threadledger.adapters import open_ledger

    if sends:
        settings.require_trust("provider")
    _set_up_logging(settings.log_format)
    replica = reads and not primary and not sends
    ledger = open_ledger(settings, create=create, upgrade=not reads, replica=replica, stays=stays)
    ledger.journal.actor = _user()  # a command that reads may still close overdue runs
    try:
        yield ledger
    finally:
        ledger.close()


def tenant_opener(settings: Settings) -> Callable[[Settings], Ledger]:
    """Return a function that opens the ledger of a tenant, from any thread, for a process that has those of several open."""
    from threadledger.adapters import open_ledger

    settings.require_trust("provider")
    _set_up_logging(settings.log_format)
    actor = _user()

    def opened(of_tenant: Settings) -> Ledger:
        ledger = open_ledger(of_tenant, create=False, stays=True)
        ledger.journal.actor = actor
        return ledger

    return opened


def run_until_stopped(
    run: Callable[[Callable[[], None]], bool], logger_name: str, announce: Callable[[], None]
) -> Exit:
    """Run a process that listens on a port until it is stopped, and log what it does; return the exit code.

    `run` gets what is to be done when it has started, and returns whether it ended in order.
    """
    lines = logging.getLogger(logger_name)
    level = lines.level

    def started() -> None:
        lines.setLevel(logging.INFO)
        announce()

    try:
        return Exit.DONE if run(started) else Exit.INTERRUPTED
    except OSError as error:
        raise click.ClickException(f"{error}, with --host or --port") from error
    finally:
        lines.setLevel(level)


ACTOR_CHARS_MAX = 200
"""Maximum characters of the name under which a command's events are stored."""


LOGIN_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Variables in which a system names the user, in the order of `getpass.getuser`."""


def _user() -> str:
    """Return the actor of a command's events: `cli:` and the login name, or the user's number if it has no name."""
    name = next(filter(None, map(os.environ.get, LOGIN_NAMES)), None)
    if name is None:
        import getpass  # loads the system's list of users, which a name in the environment makes unnecessary

        try:
            name = getpass.getuser()
        except (OSError, KeyError, ImportError):
            name = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"cli:{name.encode('utf-8', 'replace').decode()}"[:ACTOR_CHARS_MAX]


class TextParameter(click.ParamType[str]):
    """Parse text in UTF-8; with `stdin`, `-` reads it from standard input."""

    name = "text"

    def __init__(self, *, stdin: bool = False) -> None:
        self._stdin = stdin

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or fail with a usage error."""
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
    """Parse a time (ISO 8601) or a span back from now (`90s`, `30m`, `24h`, `7d`); with `versions`, also a version."""

    name = "time"

    def __init__(self, *, versions: bool = False) -> None:
        self._versions = versions

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | int:
        """Return the time or version, or fail with a usage error."""
        from threadledger.domain.ids import from_iso, now

        if isinstance(value, (datetime, int)):
            return value
        if self._versions and re.fullmatch(rf"[0-9]{{1,{VERSION_DIGITS_MAX}}}", str(value)):
            return int(value)
        span = re.fullmatch(r"([0-9]+)([smhdw])", str(value))
        if span:
            units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
            try:
                return now() - timedelta(**{units[span[2]]: int(span[1])})
            except (OverflowError, ValueError):  # Python converts at most 4,300 digits
                self.fail(f"{_short(value)} is too far in the past: give a later time.", param, ctx)
        try:
            return from_iso(str(value))
        except ValueError:
            version = "a version, " if self._versions else ""
            self.fail(
                f"{_short(value)} is not a time: give {version}ISO 8601, or a span back from now like 24h or 7d.",
                param,
                ctx,
            )


def _short(value: object) -> str:
    """Return the given value, shortened for an error message."""
    text = repr(value)
    return text if len(text) <= GIVEN_CHARS_MAX else f"{text[:GIVEN_CHARS_MAX]}…"


KEY = TextParameter()
TEXT = TextParameter(stdin=True)


SHELL_SYNTAX = re.compile(r"^[-~]|[\s!\"#$&'()*;<>?\[\\\]^`{|}]")
"""What makes a key more than a word. A key comes from other people, and bash inserts a completion as it is: after Enter, it
would be executed."""


def complete_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the matching conversation keys for shell completion, or none if there is no database."""
    try:
        with ctx.scope(cleanup=False), opened(reads=True, primary=True) as ledger:
            keys = [state.key for state in ledger.conversations() if state.key.startswith(incomplete)]
        return [key for key in keys if printable(key, lines=False) == key and not SHELL_SYNTAX.search(key)]
    except Exception:  # noqa: BLE001 - a failing completion must not disturb the prompt
        return []


IN_KEY = click.argument("key", type=KEY, shell_complete=complete_keys)
"""The conversation that a command works on."""


def _shared(name: str) -> dict[str, Any]:
    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        root = ctx.find_root()
        if not isinstance(root.obj, Invocation):
            root.obj = Invocation()
        if value is not None:
            setattr(root.obj, name, value)

    return {"expose_value": False, "callback": keep}


SHOWN_LOGGERS = (
    "threadledger.threads",
    "threadledger.views",
    "threadledger.replica",
    "threadledger.memory",
    "threadledger.server",
    "threadledger.worker",
)
"""Loggers whose messages are always shown."""


class _Stderr(logging.Handler):
    """Write log lines to the current stderr.

    With -v or in JSON format, all lines are written. Otherwise only errors, messages about threads, views and replicas that lag
    behind and about memory that stays too long, and those of a server are written, because the commands report failed
    runs themselves.
    """

    everything = in_json = False

    def filter(self, record: logging.LogRecord) -> bool:
        return self.everything or record.levelno >= logging.ERROR or record.name in SHOWN_LOGGERS

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self.everything:  # for a program that reads the log
            click.echo(safe_json(line) if self.in_json else line, err=True)
        else:
            print_message(line)


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
    handler.in_json = log_format == "json"
    handler.everything = invocation().verbose or handler.in_json
    logger.setLevel(logging.INFO if handler.everything else logging.NOTSET)


def print_message(text: str) -> None:
    """Print a message to stderr; on a terminal, lines break between words."""
    click.echo(wrapped(printable(text), sys.stderr), err=True)


TERMINAL_COLUMNS = 80
"""Width of a terminal that does not report one, in columns."""


def wrapped(text: str, stream: TextIO) -> str:
    """Return prose with line breaks between words, so that it fits on a terminal; unchanged for any other stream.

    A line keeps its indentation. A word that is longer than a line (a path, an address) is not broken.
    """
    if not stream.isatty():
        return text
    import textwrap

    columns, lines = _columns(stream), []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        options: Any = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
        lines += textwrap.wrap(line, columns, **options) if len(line) > columns else [line]
    return "\n".join(lines)


def _columns(stream: TextIO) -> int:
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns) or TERMINAL_COLUMNS
    except (OSError, ValueError):
        return TERMINAL_COLUMNS


NEW_OBJECTS_MAX = 100_000
"""Number of new objects after which Python's garbage collector runs. A command's imports create about 60,000 objects that
stay; with Python's default of 700, looking through them again and again takes about a twentieth of the start."""

TRACEBACK_CHARS_MAX = 100_000
"""Maximum characters of a traceback that are printed."""


class Exit(IntEnum):
    """Define the exit codes of all commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_FAILED = 3
    FOUND_SOMETHING = 4
    LIMIT_REACHED = 5
    NOT_FOUND = 6
    CONFLICT = 7
    NEEDS_YES = 8
    INTERRUPTED = 130


class Declined(click.ClickException):
    """Raised when the user declines at a prompt."""

    exit_code = Exit.FAILED


class NeedsYes(click.ClickException):
    """Raised when a prompt has no terminal and `--yes` was not given."""

    exit_code = Exit.NEEDS_YES


def run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an error is printed as one sentence."""
    gc.set_threshold(NEW_OBJECTS_MAX)
    with safe_output():
        return _run(command, name, arguments)


def _run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    try:
        invoked = Invocation()
        invoked.arguments = arguments
        result = command.main(args=list(arguments), prog_name=name, standalone_mode=False, obj=invoked)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else Exit.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return Exit.USAGE
    except click.ClickException as error:
        message = _safe(error.format_message())
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else name
        print_message(f"{path}: {message}")
        if isinstance(error, click.UsageError) and "--help" not in message:
            print_message(f"See: {path} --help")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print_message(f"{name}: interrupted; completed work is kept")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except Exception as error:  # noqa: BLE001 - every error becomes one sentence and an exit code
        if os.environ.get("THREADLEDGER_DEBUG"):
            click.echo(_whole_story(), err=True)
        print_message(f"{name}: {error_message(error)}")
        return code_of(error)


def _safe(text: str, limit: int = 4_000) -> str:
    """Return a text without secrets: a value that was typed may hold a password."""
    from threadledger.domain.failures import redact

    return redact(text, limit)


def _whole_story() -> str:
    """Return the traceback of the current error, with secrets redacted."""
    import traceback

    return _safe(traceback.format_exc().rstrip(), limit=TRACEBACK_CHARS_MAX)


def code_of(error: Exception) -> Exit:
    """Return the exit code of an error."""
    from threadledger.domain.errors import ChangedBlob, ChangedEvent, Conflict, InvalidInput, LogRewound, NotFound

    if isinstance(error, (ChangedEvent, ChangedBlob)):
        return Exit.FOUND_SOMETHING
    if isinstance(error, InvalidInput):
        return Exit.USAGE
    if isinstance(error, LogRewound):
        return Exit.FOUND_SOMETHING
    if isinstance(error, NotFound):
        return Exit.NOT_FOUND
    return Exit.CONFLICT if isinstance(error, Conflict) else Exit.FAILED


def error_message(error: Exception) -> str:
    """Return an error as one sentence, with secrets redacted."""
    from threadledger.adapters.documents import error_sentence

    return error_sentence(error)


class LazyGroup(click.Group):
    """Represent a command group given as `{name: (module, attribute, short help)}`."""

    def __init__(self, *arguments: Any, places: Mapping[str, tuple[str, str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in display order."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load and return one command, or None if there is no such command."""
        if cmd_name not in self._places:
            return None
        module, attribute, _ = self._places[cmd_name]
        command: click.Command = getattr(import_module(module, __package__), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; an error about an unknown name suggests the closest known one."""
        import difflib

        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self._places:
            near = difflib.get_close_matches(name, self._places, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see: {ctx.command_path} --help"
            raise click.UsageError(f"there is no command {name!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their short help, without loading them."""
        if not self._places:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in self._places.items()])
