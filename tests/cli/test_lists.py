"""`describe`, `list` and `search`: what an app shows its users, from a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from threadledger.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], db_url: str) -> Run:
    """Runs a command on a ledger of three conversations, one of which is archived."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--db", db_url])
        out, err = capsys.readouterr()
        return code, out, err

    for number, owner in enumerate(("anna", "ben", "anna")):
        key = f"k{number}"
        assert command("append", key, "user", f"Where is parcel {number}?")[0] == 0
        assert command("describe", key, "--title", f"Parcel {number}", "--owner", owner, "--metadata", "desk=3")[0] == 0
    assert command("describe", "k2", "--archive", "--tag", "late", "--tag", "lyon")[0] == 0
    return command


def as_json(told: tuple[int, str, str]) -> Any:
    assert told[0] == 0, told[2]
    return json.loads(told[1])


def keys(run: Run, *options: str) -> list[str]:
    return [each["key"] for each in as_json(run("list", "-o", "json", *options))]


def test_a_description_is_shown_and_changed(run: Run) -> None:
    shown = as_json(run("describe", "k2", "-o", "json"))
    assert shown == {
        "key": "k2",
        "version": 4,
        "title": "Parcel 2",
        "owner": "anna",
        "tags": ["late", "lyon"],
        "archived": True,
        "metadata": {"desk": "3"},
    }
    cleared = run(
        "describe", "k2", "--title", "", "--owner", "", "--tag", "", "--metadata", "", "--unarchive", "-o", "json"
    )
    assert as_json(cleared) == {
        "key": "k2",
        "version": 5,
        "title": None,
        "owner": None,
        "tags": [],
        "archived": False,
        "metadata": {},
    }
    assert run("describe", "k2")[1] == "k2  version 5\nnot described yet\n"
    assert "title: Parcel 1\nowner: ben\nmetadata desk: 3\n" in run("describe", "k1")[1]


def test_a_conversation_may_be_described_before_its_first_message_but_not_shown(run: Run) -> None:
    assert run("describe", "new")[0] == 6
    assert run("describe", "new", "--title", "Named first")[0] == 0
    assert as_json(run("show", "new", "-o", "json"))["messages"] == []


@pytest.mark.parametrize(
    "wrong", [("--metadata", "desk"), ("--metadata", "=3"), ("--owner", "x" * 201), ("--title", "x" * 501)]
)
def test_a_wrong_value_is_refused_in_one_sentence(run: Run, wrong: tuple[str, ...]) -> None:
    code, out, err = run("describe", "k1", *wrong)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert as_json(run("describe", "k1", "-o", "json"))["version"] == 3


def test_a_list_has_filters_and_leaves_archived_conversations_out(run: Run) -> None:
    assert keys(run) == ["k1", "k0"]
    assert keys(run, "--archived") == ["k2"]
    assert keys(run, "--owner", "anna") == ["k0"]
    assert keys(run, "--archived", "--tag", "late", "--tag", "lyon") == ["k2"]
    assert keys(run, "--metadata", "desk=3", "--order", "oldest") == ["k0", "k1"]
    assert keys(run, "--unanswered") == keys(run, "--since", "2999-01-01") == []
    assert keys(run, "--since", "1h", "--search", "parcel") == ["k1", "k0"]
    assert run("list", "--owner", "")[0] == 2
    assert "Parcel 1" in run("list")[1]


def test_a_list_says_that_nothing_matches(run: Run) -> None:
    assert run("list", "--tag", "early")[2] == "no conversation matches\n"
    assert run("threads")[2] == "no linked threads\n"
    assert run("threads", "--state", "behind")[2] == "no linked thread matches\n"
    code, _, err = run("list", "--metadata", "desk")
    assert (code, "'desk' is not NAME=VALUE." in err) == (2, True)


def test_a_page_leads_to_the_next_one(run: Run, db_url: str) -> None:
    page = as_json(run("list", "--limit", "1", "--cursor", "--since", "1h", "-o", "json"))
    assert [each["title"] for each in page["items"]] == ["Parcel 1"]
    following = run("list", "--cursor", "--since", "1h", "-o", "json", "--after", page["next_cursor"])
    assert [each["key"] for each in as_json(following)["items"]] == ["k0"]
    assert as_json(following)["next_cursor"] is None
    _, out, err = run("list", "--limit", "1")
    assert "k1" in out
    command = shlex.split(err.removeprefix("more: "))
    assert command[:4] == ["threadledger", "list", "--limit", "1"]
    assert "k0" in run(*command[1 : command.index("--db")], *command[command.index("--after") :])[1]
    code, _, err = run("list", "--owner", "anna", "--after", page["next_cursor"])
    assert (code, "other filters" in err) == (2, True)
    assert run("list", "--after", "x")[0] == 2


def test_messages_are_found_page_by_page_and_never_across_an_owner(run: Run) -> None:
    found = as_json(run("search", "parc", "-o", "json"))
    assert [each["key"] for each in found] == ["k2", "k1", "k0"]
    assert (found[0]["snippet"], found[0]["matches"], found[0]["in_memory"]) == ("Where is parcel 2?", [[9, 15]], True)
    page = as_json(run("search", "parc", "--owner", "anna", "--limit", "1", "--cursor", "-o", "json"))
    rest = as_json(run("search", "parc", "--owner", "anna", "--after", page["next_cursor"], "-o", "json"))
    assert [each["key"] for each in [*page["items"], *rest]] == ["k2", "k0"]
    assert "Where is parcel 1?" in run("search", "1")[1]
    assert "no message contains 'nowhere'" in run("search", "nowhere")[2]
