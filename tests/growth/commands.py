"""List every reading command, and the same with a limit where it has one, for large ledgers."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from ..cli.command_table import ADDRESS, PROFILE, TABLE
from .calls import BOTH, CONVERSATIONS, LIMIT, MESSAGES, Call, Place, whole

READING = {path for path, entry in TABLE.items() if entry.reads}


def run(place: Place, *arguments: str) -> int:
    """Run a command on a ledger and return the number of lines that it prints."""
    from threadledger.cli import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*arguments, "-o", "json", "--db", place.url])
    assert code in {0, 4}, err.getvalue()
    return out.getvalue().count("\n")


def _command(*arguments: str) -> Any:
    def do(place: Place) -> int:
        named = {"KEY": place.key, "RUN": place.run, "FILE": str(place.new_file), "URL": f"sqlite:///{place.new_file}"}
        return run(place, *(named.get(each, each) for each in arguments))

    return do


def _flat(*arguments: str, **more: Any) -> Call:
    return Call(_command(*arguments), per=lambda _: 1, **more)


def _whole(axes: frozenset[str], *arguments: str, **more: Any) -> Call:
    return whole(*axes, do=_command(*arguments), per=lambda place: place.events, **more)


OVER_CONVERSATIONS, OVER_MESSAGES = frozenset({CONVERSATIONS}), frozenset({MESSAGES})

COMMANDS: dict[str, Call] = {
    "doctor": _flat("doctor"),
    "list": _whole(OVER_CONVERSATIONS, "list"),
    "list --limit": _flat("list", "--limit", f"{LIMIT}"),
    "list --search": _whole(BOTH, "list", "--search", "parcel", "--limit", f"{LIMIT}", searches=True),
    "list --owner": _flat("list", "--owner", "owner-1", "--limit", f"{LIMIT}", "--cursor"),
    "search": _whole(BOTH, "search", "parcel", "--limit", f"{LIMIT}", searches=True),
    "delete": _flat("delete", "KEY"),
    "show": _whole(OVER_MESSAGES, "show", "KEY"),
    "show --last": _flat("show", "KEY", "--last", f"{LIMIT}"),
    "branch list": _whole(OVER_MESSAGES, "branch", "list", "KEY"),
    "diff": _whole(OVER_MESSAGES, "diff", "KEY", "2.."),
    "events": _whole(OVER_MESSAGES, "events", "KEY"),
    "audit failures": _whole(OVER_CONVERSATIONS, "audit", "failures"),
    "audit failures --limit": _flat("audit", "failures", "--limit", f"{LIMIT}"),
    "audit groups": _flat("audit", "groups"),
    "audit show": _flat("audit", "show", "RUN"),
    "audit summary": _flat("audit", "summary"),
    "audit report": _flat("audit", "report", "--output", "FILE"),
    # It rehearses the test case that it writes, message by message: only the number of conversations is changed here.
    "audit export": _flat("audit", "export", "RUN", "--output", "FILE", axes=OVER_CONVERSATIONS),
    "audit failures --actor": _flat("audit", "failures", "--limit", f"{LIMIT}", "--actor", "ann"),
    "profile list": _flat("profile", "list"),
    "profile diff": _flat("profile", "diff", PROFILE, PROFILE),
    "threads": _flat("threads", "--limit", f"{LIMIT}"),
    "replay rebuild": _whole(BOTH, "replay", "rebuild", "--all", brief=True),
    "replay rerun": _whole(OVER_CONVERSATIONS, "replay", "rerun", "--failed", brief=True),
    "replay verify": _whole(BOTH, "replay", "verify", "--all", brief=True),
    "replay reconcile": _whole(BOTH, "replay", "reconcile", "--all", brief=True),
    "replay jobs": _flat("replay", "jobs"),
    "export": _whole(BOTH, "export", "--all", brief=True),
    "blobs list": _flat("blobs", "list"),
    "blobs extract": _flat("blobs", "extract", ADDRESS, "--output", "FILE"),
    "blobs prune": _flat("blobs", "prune"),
    "db status": _flat("db", "status"),
    "db check": _whole(BOTH, "db", "check", brief=True),
    "db backup": _whole(BOTH, "db", "backup", "FILE", brief=True),
    "db copy": _whole(BOTH, "db", "copy", "URL", brief=True),
    "serve keys list": _flat("serve", "keys", "list"),
    "worker status": _flat("worker", "status"),
}
"""Every reading command; `test_growth.py` compares them with the table of commands."""
