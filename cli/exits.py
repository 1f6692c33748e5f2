"""Define exit codes and print every error as one sentence on stderr.

A traceback is printed only if `THREADLEDGER_DEBUG` is set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import IntEnum

import click

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
    try:
        result = command.main(args=list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else Exit.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return Exit.USAGE
    except click.ClickException as error:
        told = error.format_message()
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else name
        click.echo(f"{path}: {told}", err=True)
        if isinstance(error, click.UsageError) and "--help" not in told:
            click.echo(f"See: {path} --help", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"{name}: interrupted; completed work is kept", err=True)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except Exception as error:  # noqa: BLE001 - every error becomes one sentence and an exit code
        if os.environ.get("THREADLEDGER_DEBUG"):
            click.echo(_whole_story(), err=True)
        click.echo(f"{name}: {told_of(error)}", err=True)
        return code_of(error)


def _whole_story() -> str:
    """Return the traceback of the current error, with secrets redacted."""
    import traceback

    from threadledger.domain import redact

    return redact(traceback.format_exc().rstrip(), limit=TRACEBACK_CHARS_MAX)


def code_of(error: Exception) -> Exit:
    """Return the exit code of an error."""
    from threadledger.domain import Conflict, InvalidInput, NotFound

    if isinstance(error, InvalidInput):
        return Exit.USAGE
    if isinstance(error, NotFound):
        return Exit.NOT_FOUND
    return Exit.CONFLICT if isinstance(error, Conflict) else Exit.FAILED


def told_of(error: Exception) -> str:
    """Return an error as one sentence, with secrets redacted."""
    from threadledger.domain import ProviderRefused, ThreadledgerError, advise, diagnose, redact

    if isinstance(error, ProviderRefused):
        cause = diagnose(error.failure)
        return f"the provider refused: {cause.value} ({error}). {advise(cause)}"
    if isinstance(error, ThreadledgerError):
        return redact(str(error), limit=4_000)
    return (
        f"unexpected error ({type(error).__name__}: {redact(str(error))}): "
        "committed data is kept; run the command again with THREADLEDGER_DEBUG=1 to see the traceback, and report it"
    )
