"""What the tests of imports share: conversations found in a file, journaled, and seen again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from threadledger.adapters import import_found, import_source


def imported(
    ledger: Any, path: Path, kind: str | None = None, key_from: str = "threadledger_key"
) -> list[dict[str, Any]]:
    """What became of each conversation of a file."""
    with import_source(str(path), kind, key_from) as source:
        return [outcome.as_json() for outcome in import_found(ledger, source.found)]


def states(outcomes: list[dict[str, Any]]) -> list[tuple[int, str, str, int]]:
    """(line, key, state, messages) of each."""
    return [(each["line"], each["key"], each["state"], each["messages"]) for each in outcomes]


def memory(ledger: Any, key: str) -> list[dict[str, Any]]:
    """The messages of a conversation, as they were said."""
    return [each.message.as_chat_message() for each in ledger.memory(key).messages]


def said(ledger: Any, key: str) -> list[tuple[str, str]]:
    """(role, text) of each message."""
    return [(each.message.role.value, each.message.text) for each in ledger.memory(key).messages]


def end(ledger: Any) -> int:
    """The position of the last event."""
    return max((logged.position for logged in ledger.events()), default=0)


def written(path: Path, value: Any) -> Path:
    """A file of JSON."""
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
