"""`profile list` and `profile diff`: what was defined, what changed, and whether it failed less since."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import threadledger
from threadledger.domain.conversation import Profile

JOHN = Profile("John", "Be kind.\nBe brief.", "gpt-4o")
JANE = replace(
    JOHN,
    name="Jane \x1b[31m",
    instructions="Be kind.\nBe thorough.",
    tools_json=json.dumps([{"type": "file_search"}]),
    settings_json='{"temperature": 0.5}',
)


@pytest.fixture
def defined(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger with two profiles."""
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    with threadledger.open(db_url, threads="none") as ledger:
        ledger.journal.define_profile(JOHN)
        ledger.journal.define_profile(JANE)


@pytest.mark.usefixtures("defined")
def test_profiles_are_listed_as_table_as_json_and_in_pages(command: Callable[..., Any]) -> None:
    listed = command("profile", "list", "-o", "json").json
    assert [each["hash"] for each in listed] == [JANE.hash, JOHN.hash]
    keys = ["hash", "name", "model", "defined_at", "instructions", "tools", "runs", "failed", "failure_rate", "actor"]
    assert list(listed[0]) == keys
    table = command("profile", "list").out
    assert JANE.hash[:12] in table and "Be kind." in table and "\x1b[31m" not in table
    page = command("profile", "list", "--limit", "1", "--cursor", "-o", "json").json
    assert page["items"] == listed[:1]
    assert command("profile", "list", "--after", page["next_cursor"], "-o", "json").json == listed[1:]
    assert f"--after {page['next_cursor']}" in command("profile", "list", "--limit", "1").err


@pytest.mark.usefixtures("defined")
def test_a_difference_is_drawn_and_exits_4(command: Callable[..., Any]) -> None:
    done = command("profile", "diff", JOHN.hash[:10], JANE.hash[:10])
    assert done.code == 4
    for said in (
        "-Be brief.",
        "+Be thorough.",
        "+ tool file_search",
        "~ setting temperature: none → 0.5",
    ):
        assert said in done.out
    assert '~ name: "John" → "Jane \\u001b[31m"' in done.out
    document = command("profile", "diff", JOHN.hash, JANE.hash, "-o", "json")
    assert (document.code, document.json["same"], document.json["tools_added"]) == (4, False, ["file_search"])
    same = command("profile", "diff", JOHN.hash, JOHN.hash[:6])
    assert (same.code, same.out.splitlines()[-1]) == (0, "the profiles are the same")


@pytest.mark.usefixtures("defined")
def test_a_profile_that_is_not_there_exits_6_and_no_hash_exits_2(command: Callable[..., Any]) -> None:
    missing = next(each for each in "0123456789abcdef" if each not in {JOHN.hash[0], JANE.hash[0]})
    assert command("profile", "diff", missing, JOHN.hash).code == 6
    wrong = command("profile", "diff", "John", JOHN.hash)
    assert (wrong.code, wrong.out) == (2, "")
    assert "is not the hash of a profile" in wrong.err


def test_a_ledger_without_profiles_lists_none(command: Callable[..., Any]) -> None:
    assert command("init").code == 0
    done = command("profile", "list")
    assert (done.code, done.out, done.err) == (0, "", "no profiles\n")
