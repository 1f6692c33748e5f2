"""Implement `threadledger serve`: OpenAI's state APIs, answered from the journal."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import click

from .main import (
    OPEN_LEDGERS,
    TEXT,
    Exit,
    LazyGroup,
    common,
    load_settings,
    opened_with,
    run_until_stopped,
    tenant_opener,
)
from .output import note

if TYPE_CHECKING:
    from threadledger.adapters import Settings
    from threadledger.adapters.server import Server

PLACES = {"keys": (".serve_keys", "keys", "Add, list and revoke the keys of apps.")}
"""Commands of the group."""


@click.group(cls=LazyGroup, places=PLACES, invoke_without_command=True)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others than loopback need a key."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8731,
    show_default=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--root-path", type=TEXT, default="", metavar="P", help="Prefix of all paths, as a proxy forwards them.")
@click.option(
    "--allow-host",
    type=TEXT,
    multiple=True,
    metavar="NAME",
    help="Answer requests for this host name too while there is no key; can be repeated.",
)
@OPEN_LEDGERS
@common
@click.pass_context
def serve(
    context: click.Context, host: str, port: int, root_path: str, allow_host: tuple[str, ...], open_ledgers: int
) -> int:
    """Serve OpenAI's state APIs from the journal, and print the base URL. Ctrl-C stops the server.

    An app that was written for assistants, threads and runs sets its base URL and keeps its thread ids. If the database is
    that of a tenant, and none is chosen, all tenants are served: the key of a request names its tenant. See docs/serve.md.
    """
    if context.invoked_subcommand is not None:
        return Exit.DONE
    from threadledger.adapters.server import TenantServer, open_server, require_path

    require_path(root_path)
    settings = load_settings()
    with ExitStack() as opened:
        if settings.is_per_tenant:
            server: Server = TenantServer(
                settings,
                tenant_opener(settings),
                host,
                port,
                root_path,
                allowed_hosts=allow_host,
                open_ledgers=open_ledgers,
            )
        else:
            ledger = opened.enter_context(opened_with(settings, create=True, sends=True, stays=True))
            server = open_server(ledger, settings, host=host, port=port, root_path=root_path, allowed_hosts=allow_host)
        return run_until_stopped(server.serve_forever, "threadledger.server", partial(_announce, server, settings))


def _announce(server: Server, settings: Settings) -> None:
    click.echo(server.base_url)
    key = "a key of a tenant" if settings.is_per_tenant else "any API key works while there is none"
    note(f"set OPENAI_BASE_URL={server.base_url} in your app; {key}; Ctrl-C stops")
