"""Implement `threadledger config`, which shows the effective settings with secrets masked."""

from __future__ import annotations

from typing import Any

import click

from .exits import Exit
from .invocation import common, load_settings
from .output import emit_many

MASK = "********"


@click.command()
@click.option("--origin", is_flag=True, help="Also show where each value comes from.")
@common
def config(origin: bool) -> int:
    """Show the effective settings. Options override the environment, which overrides .env and then defaults."""
    from threadledger.adapters import origins

    settings = load_settings()
    places = origins(settings)
    rows = []
    for key, field in type(settings).model_fields.items():
        name = str(field.validation_alias)
        row: dict[str, Any] = {"name": name, "value": _shown(getattr(settings, key))}
        rows.append(row | {"origin": places[name]} if origin else row)
    emit_many(rows, ("name", "value", "origin") if origin else ("name", "value"))
    return Exit.DONE


def _shown(value: Any) -> Any:
    from pydantic import SecretStr

    from threadledger.domain import redact

    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return ",".join(value)
    return value if value is None or isinstance(value, (bool, int, float)) else redact(str(value))
