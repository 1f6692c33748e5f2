"""`threadledger serve keys`: a key is shown once, and nothing of it is left anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from freezegun import freeze_time

import threadledger


@pytest.fixture(autouse=True)
def url(db_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    return db_url


def test_a_new_key_alone_is_printed_to_stdout_and_is_accepted(command: Callable[..., Any], url: str) -> None:
    done = command("serve", "keys", "add", "app", "--tenant", "acme", "--read-only")
    assert done.code == 0
    assert re.fullmatch(r"tl-[0-9a-f]{64}\n", done.out)
    assert "shown only once" in done.err
    with threadledger.open(url) as ledger:
        found = ledger.api_keys.find(done.out.strip())
    assert found is not None
    assert (found.name, found.tenant, found.read_only, found.actor) == ("app", "acme", True, "cli:tester")


def test_a_new_key_as_json(command: Callable[..., Any]) -> None:
    document = command("serve", "keys", "add", "app", "-o", "json").json
    assert document == {"name": "app", "key": document["key"], "tenant": "", "read_only": False}
    assert re.fullmatch(r"tl-[0-9a-f]{64}", document["key"])


def test_keys_are_listed_with_what_they_reach_and_when_they_were_revoked(command: Callable[..., Any]) -> None:
    with freeze_time("2026-11-29 12:00:00") as clock:
        command("serve", "keys", "add", "app")
        command("serve", "keys", "add", "reader", "--tenant", "acme", "--read-only")
        clock.tick(60)
        revoked = command("serve", "keys", "revoke", "app", "-o", "json").json
    rows = command("serve", "keys", "list", "-o", "json").json
    at = {"added_at": "2026-11-29T12:00:00.000000Z", "actor": "cli:tester"}
    assert rows == [
        {"name": "app", "tenant": "", "read_only": False, "revoked_at": "2026-11-29T12:01:00.000000Z"} | at,
        {"name": "reader", "tenant": "acme", "read_only": True, "revoked_at": None} | at,
    ]
    assert revoked == rows[0]
    table = command("serve", "keys", "list").out
    assert all(each in table for each in ("app", "reader", "acme", "yes", "2026-11-29T12:01"))


def test_an_empty_list_says_so(command: Callable[..., Any]) -> None:
    command("init")
    done = command("serve", "keys", "list")
    assert (done.code, done.out, done.err.strip()) == (0, "", "no keys")
    assert command("serve", "keys", "list", "-o", "json").json == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("add", "a:b"), 2, "is not the name of a key"),
        (("add", "new", "--tenant", "A/B"), 2, "is not the name of a tenant"),
        (("add", "app"), 7, "revoke that one first with: threadledger serve keys revoke app"),
        (("revoke", "unknown"), 6, "list the keys with: threadledger serve keys list"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    command: Callable[..., Any], arguments: tuple[str, ...], code: int, says: str
) -> None:
    command("serve", "keys", "add", "app")
    done = command("serve", "keys", *arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err
    assert done.err.count("\n") == 1


def test_a_key_is_in_no_file_log_or_other_output(command: Callable[..., Any], tmp_path: Path) -> None:
    added = command("serve", "keys", "add", "app", "-v", "--log-format", "json")
    key = added.out.strip()
    assert key
    outputs = [added.err]
    for arguments in (
        *(("serve", "keys", "list"), ("events",), ("audit", "failures"), ("export", "--all"), ("db", "check")),
        *(("list",), ("db", "status"), ("doctor",), ("config",), ("serve", "keys", "revoke", "app"), ("events",)),
    ):
        for style in ("table", "json"):
            done = command(*arguments, "-v", "-o", style)
            outputs += [done.out, done.err]
    outputs.append(command("audit", "show", key).err)  # pasted by mistake
    assert not [text for text in outputs if key in text or key.removeprefix("tl-") in text]
    assert any("ApiKeyAdded" in text for text in outputs)
    hashed = sha256(key.encode()).hexdigest()
    assert not [text for text in outputs if hashed in text and "key_hash" not in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert key.removeprefix("tl-").encode() not in path.read_bytes(), path
        assert bytes.fromhex(key.removeprefix("tl-")) not in path.read_bytes(), path
