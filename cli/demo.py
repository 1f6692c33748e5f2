"""Implement `threadledger demo`, which runs a guided demo on a scratch database and its own simulator."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .main import Exit, common, load_settings, opened_with, run, wrapped
from .output import console, prose

if TYPE_CHECKING:
    from threadledger.adapters import Simulator

KEY = "customer-42"

PROFILE = """name = "John"
instructions = "You are John, the assistant of a parcel service."

[[tools]]
name = "web_search"
description = "Search the web."
"""

THREAD, ASSISTANT = "thread_Pd7sLw2XbHq9RkM4", "asst_Zr4kq1mVn0pTt8uY"

OLD_SCRIPT, OLD_SCRIPT_TEXT = (
    "support_2024.py",
    f'''"""Answer a customer in the thread that the app remembers, as apps did in 2024."""

from openai import OpenAI

client = OpenAI()
threads = client.beta.threads
threads.messages.create("{THREAD}", role="user", content="Thank you. To my neighbour, please.")
run = threads.runs.create_and_poll(thread_id="{THREAD}", assistant_id="{ASSISTANT}")
print("run       >", run.status)
for message in threads.messages.list("{THREAD}", order="asc"):
    print(f"{{message.role:9}} > {{message.content[0].text.value}}")
''',
)
"""Name and text of a script for the Assistants API."""

DUMP_TIME = 1_718_020_800  # 2024-06-10
DUMP: dict[str, Any] = {
    "assistants": [
        {
            "id": ASSISTANT,
            "object": "assistant",
            "created_at": DUMP_TIME,
            "model": "gpt-4o",
            "instructions": "You are John.",
        }
    ],
    "threads": [
        {
            "id": THREAD,
            "object": "thread",
            "created_at": DUMP_TIME,
            "messages": [
                {"id": "msg_1", "role": "user", "created_at": DUMP_TIME + 5, "content": "I am not at home tomorrow."},
                {
                    "id": "msg_2",
                    "role": "assistant",
                    "created_at": DUMP_TIME + 9,
                    "content": "Shall we leave it elsewhere?",
                },
            ],
        }
    ],
}
"""What that script's app had saved of the Assistants API before it was shut down."""

SCRIPT_SECONDS_MAX = 60.0
"""Time limit of the script; it takes about two seconds."""

ROUTES = """[serve.models]
"gpt-4o" = ["responses", "chat"]    # the name of a model that is gone, and what answers instead
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
    "--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Keep the database in this folder."
)
@common
def demo(keep: Path | None) -> int:
    """Run a guided demo: a run fails, a fallback answers, the thread is lost and rebuilt from the journal.

    Needs no key and no network: a simulator replaces the provider.
    """
    from threadledger.adapters import Simulator, private_file

    with ExitStack() as stack:
        place = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadledger-")))
        place.mkdir(parents=True, exist_ok=True)
        if (place / "threadledger.db").exists():
            raise click.ClickException(
                f"{place} already contains a threadledger.db, which was not changed: name another folder"
            )
        simulator = stack.enter_context(Simulator(seed=42))
        stack.enter_context(_settled_in(place, SETTINGS | {"OPENAI_BASE_URL": simulator.base_url}))
        with private_file(Path("john.toml"), overwrite=True) as file:
            file.write(PROFILE)
        _play_story(simulator)
    if keep is not None:
        database = keep / "threadledger.db"
        click.echo(
            wrapped(f"The database is {database}: threadledger --db {shlex.quote(str(database))} list", sys.stdout)
        )
    return Exit.DONE


def _play_story(simulator: Simulator) -> None:
    simulator.answer("Hello, I am John. What can I do for you?")
    _say("A customer writes. The assistant is created from the profile and answers in its thread.")
    _do("ask", KEY, "Hello, is anybody there?")

    simulator.add_fault("POST /threads/{thread_id}/runs", fail={}, times=2)
    simulator.answer("Your parcel 00340434 is on its way; it arrives tomorrow.")
    _say("The next run fails, is retried, and fails again. Chat Completions answers instead.")
    _do("ask", KEY, "Where is my parcel?")

    _say("Why? The audit lists every failure with its cause and advice.")
    _do("audit", "failures")

    _say("Question and answer are in the journal and in the provider's thread: the memory is complete.")
    _do("show", KEY)
    _do("replay", "verify", KEY)

    thread_id = next(iter(simulator.provider.threads))
    simulator.lose(thread_id)
    _say("Now the provider loses the thread. Most apps would lose the conversation with it.")
    _do("replay", "verify", KEY, expected=Exit.FOUND_SOMETHING)

    _say("The journal is complete: rebuild the thread. First the plan, then --apply. No model is called.")
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
    _say("Next, every backend fails for a moment. The question is kept.")
    _do("ask", KEY, "Can I still change the address?", expected=Exit.FAILED)

    simulator.answer("Yes, until it is loaded into the van: send me the new one.")
    _say("The backends work again. Rerun the unanswered exchange.")
    _do("replay", "rerun", "--failed")
    _do("replay", "rerun", "--failed", "--apply", "--yes")

    simulator.retire("assistants")
    simulator.answer("Gladly. The new address is noted.")
    _say("The provider shuts down the API. Conversations and Responses take over, with the whole memory.")
    os.environ |= {"USE_ASSISTANTS_API": "false", "THREADLEDGER_THREADS": "conversations"}
    os.environ["THREADLEDGER_BACKENDS"] = "responses,chat"
    _do("replay", "rebuild", KEY, "--to", "conversations", "--apply", "--yes")
    _do("ask", KEY, "12 Rue de la Paix, please.")
    _do("replay", "verify", KEY, "--to", "conversations")
    simulator.answer("Your neighbour gets it. Have a good trip.")
    _play_old_script()
    _say("That is threadledger: your conversations outlive any provider's threads.")


def _play_old_script() -> None:
    """Import what an old app saved, serve it, and run the app's script against the server."""
    from threadledger.adapters import private_file
    from threadledger.adapters.server import open_server

    for name, text in (
        ("dump.json", json.dumps(DUMP)),
        ("threadledger.toml", ROUTES),
        (OLD_SCRIPT, OLD_SCRIPT_TEXT),
    ):
        with private_file(Path(name), overwrite=True) as file:
            file.write(text)
    _say("And an app of 2024, with a script for the API that is gone? Import what it saved, and serve it.")
    _do("import", "dump.json")
    settings = load_settings()
    with (
        opened_with(settings, create=True, sends=True) as ledger,
        open_server(ledger, settings, port=0) as server,
    ):
        prose(console(), "$ threadledger serve --port 0", style="cyan")
        click.echo(server.base_url)
        _say("The script runs unchanged, with its own thread, assistant and model: only OPENAI_BASE_URL is new.")
        prose(console(), f"$ OPENAI_BASE_URL={server.base_url} python {OLD_SCRIPT}", style="cyan")
        command = [sys.executable, "-W", "ignore::DeprecationWarning", OLD_SCRIPT]
        env = os.environ | {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "any"}
        ended = subprocess.run(  # noqa: S603 - the script is ours
            command, check=False, env=env, capture_output=True, text=True, timeout=SCRIPT_SECONDS_MAX
        )
    if ended.returncode != 0:
        raise click.ClickException(f"the demo failed at: python {OLD_SCRIPT}: {ended.stderr.strip()[-500:]}")
    click.echo(ended.stdout, nl=False)


def _say(sentence: str) -> None:
    click.echo()
    prose(console(), sentence, style="bold")


def _do(*arguments: str, expected: Exit = Exit.DONE) -> None:
    """Run a command as if it were typed in a terminal."""
    from . import root

    quoted = " ".join(f'"{each}"' if " " in each else each for each in arguments)
    prose(console(), f"$ threadledger {quoted}", style="cyan")
    code = run(root, "threadledger", arguments)
    sys.stdout.flush()
    if code != expected:
        raise click.ClickException(
            f"the demo failed at: threadledger {quoted} (exit code {code}, expected {int(expected)})"
        )


@contextmanager
def _settled_in(place: Path, settings: dict[str, str]) -> Iterator[None]:
    """Work in a folder with only these settings, and restore folder and environment afterwards."""
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
