"""`threadledger fork`: a new conversation that begins as another one was."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Done

Command = Callable[..., Done]


@pytest.fixture
def three(command: Command) -> None:
    for word in ("one", "two", "three"):
        command("append", "k", "user", word)


@pytest.mark.usefixtures("three")
def test_a_fork_begins_as_the_other_one_is_or_was(command: Command) -> None:
    assert command("fork", "k", "new", "-o", "json").json == {
        "key": "new",
        "version": 4,
        "messages": 3,
        "parent": {"key": "k", "version": 4},
    }
    assert command("fork", "k", "older", "--at", "3").out.strip() == "older is a copy of k as of version 3: 2 messages"
    assert [m["content"] for m in command("show", "older", "-o", "json").json["messages"]] == ["one", "two"]


@pytest.mark.usefixtures("three")
def test_show_and_events_tell_the_parent(command: Command) -> None:
    command("fork", "k", "new", "--at", "2")
    assert "forked from k at version 2" in command("show", "new").out
    assert "forked from k at version 2" in command("show", "new", "--view", "timeline").out
    assert command("show", "new", "-o", "json").json["parent"] == {"key": "k", "version": 2}
    assert "parent" not in command("show", "k", "-o", "json").json
    first = command("events", "new", "-o", "json").json[0]["data"]
    assert (first["parent_key"], first["parent_version"]) == ("k", 2)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("k", "k"), 7, "the conversation 'k' already exists: choose another key for the fork"),
        (("nobody", "new"), 6, "no conversation 'nobody'"),
        (("k", "new", "--at", "99"), 2, "'k' has versions 1 to 4: there is no version 99 to fork"),
        (("k", "new", "--at", "2001-01-01"), 2, "'k' did not exist yet at that time"),
        (("k", "x" * 201), 2, "a conversation key of 201 characters"),
        (("k", "new", "--at", "yesterday"), 2, "is not a time"),
    ],
)
def test_what_cannot_be_forked_is_refused(command: Command, arguments: tuple[str, ...], code: int, told: str) -> None:
    refused = command("fork", *arguments)
    assert (refused.code, told in refused.err) == (code, True)
    assert len(command("list", "-o", "json").json) == 1
