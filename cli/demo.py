"""`threadledger demo`: the whole story, on a scratch database and a simulator that it starts itself."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import Exit, run
from .invocation import common

if TYPE_CHECKING:
    from threadledger.adapters import Simulator

KEY = "customer-42"

PROFILE = """name = "John"
instructions = "You are John, the assistant of a parcel service."

[[tools]]
name = "web_search"
description = "Search the web."
"""

SETTINGS = {
    "OPENAI_API_KEY": "sk-demo",
    "THREADLEDGER_DB": "sqlite:///threadledger.db",
    "THREADLEDGER_PROFILE": "john.toml",
    "THREADLEDGER_BACKENDS": "assistants,chat",
    "THREADLEDGER_THREADS": "assistants",
    "THREADLEDGER_RETRIES": "1",
}


@click.command()
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Leave the database there."
)
@common
def demo(keep: Path | None) -> int:
    """Tell the story: a run fails, the answer still comes, memory stays whole, the thread is rebuilt.

    Needs no key and no network: a simulator plays the provider.
    """
    from threadledger.adapters import Simulator

    with ExitStack() as stack:
        place = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadledger-")))
        place.mkdir(parents=True, exist_ok=True)
        if (place / "threadledger.db").exists():
            raise click.ClickException(
                f"{place} holds a threadledger.db already, and it was not touched: name another folder"
            )
        simulator = stack.enter_context(Simulator(seed=42))
        stack.enter_context(_settled_in(place, SETTINGS | {"OPENAI_BASE_URL": simulator.base_url}))
        Path("john.toml").write_text(PROFILE, encoding="utf-8")
        _tell(simulator)
    if keep is not None:
        click.echo(
            f"The database is {keep / 'threadledger.db'}: threadledger --db sqlite:///{keep / 'threadledger.db'} list"
        )
    return Exit.DONE


def _tell(simulator: Simulator) -> None:
    simulator.answer("Hello, I am John. What can I do for you?")
    _say("A customer writes. The assistant is made from the profile, and answers in its thread.")
    _do("ask", KEY, "Hello, is anybody there?")

    simulator.add_fault("POST /threads/{thread_id}/runs", fail={}, times=2)
    simulator.answer("Your parcel 00340434 is on its way; it arrives tomorrow.")
    _say("The next run fails, is retried, and fails again. Chat Completions answers instead.")
    _do("ask", KEY, "Where is my parcel?")

    _say("Why? Every failure is in the audit, with its cause and what to do.")
    _do("audit", "failures")

    _say("Question and answer are in the journal, and in the provider's thread: memory stays in one piece.")
    _do("show", KEY)
    _do("replay", "verify", KEY)

    thread_id = next(iter(simulator.provider.threads))
    simulator.lose(thread_id)
    _say("Now the provider loses the thread. For most apps, that was the memory.")
    _do("replay", "verify", KEY, expected=Exit.FOUND_SOMETHING)

    _say("The journal has it all: write the thread anew. First the plan, then --apply. No model is called.")
    _do("replay", "rebuild", KEY)
    _do("replay", "rebuild", KEY, "--apply", "--yes")
    _do("replay", "verify", KEY)

    simulator.add_fault("POST /threads/{thread_id}/runs", fail={}, times=2)
    busy = {
        "status": 429,
        "code": "rate_limit_exceeded",
        "type": "requests",
        "message": "Rate limit reached for requests.",
    }
    simulator.add_fault("POST /chat/completions", refuse=busy, times=2)
    _say("A bad minute: every backend fails. The question is kept.")
    _do("ask", KEY, "Can I still change the address?", expected=Exit.FAILED)

    simulator.answer("Yes, until it is loaded into the van: send me the new one.")
    _say("The minute is over. What nobody answered is run again.")
    _do("replay", "rerun", "--failed")
    _do("replay", "rerun", "--failed", "--apply", "--yes")

    simulator.retire("assistants")
    simulator.answer("Gladly. The new address is noted.")
    _say("The provider shuts the API down. Conversations and Responses take over, with the whole memory.")
    os.environ |= {"USE_ASSISTANTS_API": "false", "THREADLEDGER_THREADS": "conversations"}
    os.environ["THREADLEDGER_BACKENDS"] = "responses,chat"
    _do("replay", "rebuild", KEY, "--to", "conversations", "--apply", "--yes")
    _do("ask", KEY, "12 Rue de la Paix, please.")
    _do("replay", "verify", KEY, "--to", "conversations")
    _say("That is threadledger: your conversations outlive any provider's threads.")


def _say(sentence: str) -> None:
    click.echo()
    click.secho(sentence, bold=True)


def _do(*arguments: str, expected: Exit = Exit.DONE) -> None:
    """Run a command just as it is typed."""
    from . import root

    quoted = " ".join(f'"{each}"' if " " in each else each for each in arguments)
    click.secho(f"$ threadledger {quoted}", fg="cyan")
    code = run(root, "threadledger", arguments)
    sys.stdout.flush()
    if code != expected:
        raise click.ClickException(
            f"the story went wrong at: threadledger {quoted} (exit code {code}, not {int(expected)})"
        )


@contextmanager
def _settled_in(place: Path, settings: dict[str, str]) -> Iterator[None]:
    """Work in a folder with these settings and no others; afterwards everything is as before."""
    before, folder = dict(os.environ), Path.cwd()
    for name in [
        name for name in os.environ if name.startswith(("THREADLEDGER_", "OPENAI_", "AZURE_OPENAI_", "USE_ASSISTANTS"))
    ]:
        del os.environ[name]
    os.environ |= settings
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ |= before
