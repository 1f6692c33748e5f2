"""Implement `threadledger serve keys`, which adds, lists and revokes the keys with which apps call the served API."""

from __future__ import annotations

import click

from .main import KEY, Exit, LazyGroup, common, opened
from .output import emit_line, emit_many, note

IN_NAME = click.argument("name", type=KEY)


@click.group(
    cls=LazyGroup,
    places={
        "add": (".serve_keys", "add", "Add a key for an app and print it."),
        "list": (".serve_keys", "list_", "List the keys that were ever added."),
        "revoke": (".serve_keys", "revoke", "Revoke a key by its name."),
    },
)
@common
def keys() -> None:
    """Add, list and revoke the keys with which apps call the served API; the ledger keeps only their hashes."""


@click.command()
@IN_NAME
@click.option("--tenant", type=KEY, default="", metavar="T", help="Reach only the objects of this tenant.")
@click.option("--read-only", is_flag=True, help="Let it read only.")
@common
def add(name: str, tenant: str, read_only: bool) -> int:
    """Add a key named NAME and print it: this is the only time that it is shown.

    Without --tenant, it reaches what belongs to no tenant.
    """
    with opened(create=True) as ledger:
        key = ledger.api_keys.add(name, tenant, read_only)
    emit_line({"name": name, "key": key, "tenant": tenant, "read_only": read_only}, key)
    note("this key is shown only once: store it where its app finds it")
    return Exit.DONE


@click.command("list")
@common
def list_() -> int:
    """List all keys that were ever added, oldest first; a revoked one has the time of that."""
    with opened(reads=True, primary=True) as ledger:
        rows = [each.as_json() for each in ledger.api_keys.all()]
    columns = ("name", "tenant", "read_only", "added_at", "revoked_at", "actor")
    emit_many(rows, columns, empty="no keys", spare=("actor", "added_at"))
    return Exit.DONE


@click.command()
@IN_NAME
@common
def revoke(name: str) -> int:
    """Revoke the key named NAME: servers refuse it within a second. The name can be used again."""
    with opened() as ledger:
        revoked = ledger.api_keys.revoke(name)
    emit_line(revoked.as_json(), f"revoked {name!r}")
    return Exit.DONE
