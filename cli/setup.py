"""Implement `threadledger init` (settings file and database), `config` (effective settings) and `simulate`.

`config` masks secrets. `simulate` serves a simulator of OpenAI's API.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from .main import Exit, common, invocation, load_settings, opened
from .output import emit_many, emit_one, note, prose

ENV = Path(".env")
BACKUP = Path(".env.bak")


@click.command()
@click.option("--force", is_flag=True, help="Rewrite .env; the old file is kept as .env.bak.")
@common
def init(force: bool) -> int:
    """Write .env from the example, which explains every setting, and create the database."""
    from threadledger.adapters import private_file

    with opened(create=True) as ledger:
        url = ledger.status()["url"]
    thing = {"env": str(ENV), "db": url}
    if ENV.exists() and not force:
        emit_one(thing, lambda console: prose(console, f"database {url}"))
        note(".env already exists and was not changed: --force rewrites it and keeps the old file as .env.bak")
        return Exit.DONE
    if ENV.exists():
        ENV.replace(BACKUP)
        note(f"the old settings are in {BACKUP}")
    example = files("threadledger.cli").joinpath("env.example").read_text(encoding="utf-8")
    chosen = invocation().db
    if chosen is not None:
        example = example.replace("# THREADLEDGER_DB=sqlite:///threadledger.db", f"THREADLEDGER_DB={_quoted(chosen)}")
    with private_file(ENV, overwrite=True) as file:
        file.write(example)
    _trust_written(example.encode())
    emit_one(thing, lambda console: prose(console, f"wrote {ENV}, database {url}"))
    note("set OPENAI_API_KEY in .env, then: threadledger ask KEY TEXT")
    return Exit.DONE


def _trust_written(content: bytes) -> None:
    """Trust the written .env; a user without a home folder for the record can still use it."""
    from threadledger.adapters import trust_file
    from threadledger.domain.errors import InvalidSettings

    try:
        trust_file(ENV, content)
    except InvalidSettings as error:
        note(str(error))


def _quoted(value: str) -> str:
    """Return a value as `.env` needs it: in quotes if it holds a space or a character with a meaning there."""
    if not re.search(r"[\s#'\"$\\]", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


MASK = "********"


@click.command()
@click.option("--origin", is_flag=True, help="Also show where each value comes from, and which need trust.")
@common
def config(origin: bool) -> int:
    """Show the effective settings.

    Options override the environment, which overrides .env, then threadledger.toml, then defaults. --origin also shows which
    values a command uses only in a trusted folder; see: threadledger trust --help
    """
    from threadledger.adapters import FolderTrust, origins

    settings = load_settings()
    places = origins(settings)
    trust = FolderTrust(settings) if origin else None
    needs = {need.setting: trust.state for need in trust.needs()} if trust is not None else {}
    rows = []
    for key, field in settings.fields.items():
        name = field.name
        row: dict[str, Any] = {
            "name": name,
            "value": MASK if field.is_secret and getattr(settings, key) else _shown(getattr(settings, key)),
        }
        rows.append(row | {"origin": places[name], "trust": needs.get(name)} if origin else row)
    for name, backend in settings.named.items():
        shown = ", ".join(f"{key}={_shown(value)}" for key, value in backend.shown().items())
        row = {"name": f"backends.{name}", "value": shown}
        place = {"origin": settings.config_file, "trust": needs.get(row["name"])}
        rows.append(row | place if origin else row)
    for name, value in settings.serve.shown().items() if settings.config_file is not None else ():
        row = {"name": name, "value": _shown(value)}
        rows.append(row | {"origin": settings.config_file, "trust": None} if origin else row)
    for name, each in settings.schedules.items():
        row = {"name": f"schedules.{name}", "value": each.shown()}
        place = {"origin": settings.config_file, "trust": needs.get("schedules")}
        rows.append(row | place if origin else row)
    columns = ("name", "value", *(["origin"] if origin else []))
    shows_trust = trust is not None and (needs or invocation().output != "table")
    emit_many(rows, (*columns, "trust") if shows_trust else columns)
    if trust is not None:
        note(trust.described() if needs else "nothing in the folder needs trust")
    return Exit.DONE


def _shown(value: Any) -> Any:
    from threadledger.domain.failures import redact

    if isinstance(value, tuple):
        return ",".join(value)
    return value if value is None or isinstance(value, (bool, int, float)) else redact(str(value))


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
    from threadledger.domain.errors import FileMissing

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

    def announce() -> None:
        click.echo(simulator.base_url)
        note(f"OPENAI_BASE_URL={simulator.base_url} OPENAI_API_KEY=any threadledger ask KEY TEXT; Ctrl-C stops")

    simulator.serve_forever(announce)
    return Exit.DONE
