"""Implement `threadledger simulate`, which serves a simulator of OpenAI's API."""

from __future__ import annotations

from pathlib import Path

import click

from .exits import Exit
from .invocation import common
from .output import note


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--script", type=click.Path(path_type=Path), help="File with answers and faults; see docs/simulator.md.")
@click.option("--seed", type=int, help="Seed that makes ids and random choices reproducible.")
@click.option("--state", type=click.Path(path_type=Path), help="Keep state in this SQLite file; default: in memory.")
@common
def simulate(host: str, port: int, script: Path | None, seed: int | None, state: Path | None) -> int:
    """Serve a simulator of OpenAI's API and print its base URL. Ctrl-C stops it.

    It returns scripted answers, or echoes the question. With an existing --state file, the simulator resumes where the
    last one stopped, with the script and the seed stored there.
    """
    from threadledger.adapters import Script, ScriptError, Simulator, StateError
    from threadledger.domain import FileMissing

    if script is not None and not script.is_file():
        raise FileMissing(f"the script {script} cannot be read: there is no such file; name another one")
    try:
        loaded = Script.load(script) if script is not None else None
    except ScriptError as error:
        raise click.UsageError(f"{error}; see docs/simulator.md for the format") from error
    simulator = Simulator(host, port, loaded, seed=seed, state=state)
    try:
        simulator.start()
    except StateError as error:
        raise click.ClickException(f"{error}; choose another one with --state") from error
    except OSError as error:
        raise click.ClickException(f"{error}: choose another one with --port") from error
    click.echo(simulator.base_url)
    note(f"OPENAI_BASE_URL={simulator.base_url} OPENAI_API_KEY=any threadledger ask KEY TEXT; Ctrl-C stops")
    simulator.serve_forever()
    return Exit.DONE
