"""`threadledger simulate`: a provider to rehearse with."""

from __future__ import annotations

from pathlib import Path

import click

from .exits import Exit
from .invocation import common
from .output import note


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
@click.option("--script", type=click.Path(path_type=Path), help="Answers and faults: see docs/simulator.md.")
@click.option("--seed", type=int, help="Makes ids and chances the same each time.")
@click.option("--state", type=click.Path(path_type=Path), help="Keep state in this SQLite file; else in memory.")
@common
def simulate(host: str, port: int, script: Path | None, seed: int | None, state: Path | None) -> int:
    """Serve a provider that speaks OpenAI's protocol; its base URL is on stdout. Ctrl-C ends it.

    It answers with what it was told to answer, or with an echo. A simulator on a state file that is there already goes
    on where the last one stopped: script and seed are those of then.
    """
    from threadledger.adapters import Script, ScriptError, Simulator, StateError
    from threadledger.domain import FileMissing

    if script is not None and not script.is_file():
        raise FileMissing(f"the script {script} cannot be read: there is no such file; name another one")
    try:
        loaded = Script.load(script) if script is not None else None
    except ScriptError as error:
        raise click.UsageError(f"{error}; docs/simulator.md shows the form") from error
    simulator = Simulator(host, port, loaded, seed=seed, state=state)
    try:
        simulator.start()
    except StateError as error:
        raise click.ClickException(f"{error}; choose another one with --state") from error
    except OSError as error:
        raise click.ClickException(f"{error}: choose another one with --port") from error
    click.echo(simulator.base_url)
    note(f"OPENAI_BASE_URL={simulator.base_url} OPENAI_API_KEY=any threadledger ask KEY TEXT; Ctrl-C ends")
    simulator.serve_forever()
    return Exit.DONE
