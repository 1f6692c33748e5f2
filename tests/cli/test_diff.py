"""`threadledger diff`: a memory then and now, and the journal against its thread."""

from __future__ import annotations

import json

import pytest

import threadledger

WORDS = "Your parcel is on its way to Bern and arrives tomorrow."


@pytest.fixture
def retracted(monkeypatch, db_url):
    """A conversation of four messages, the second of which was retracted at version 6."""
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    with threadledger.open(threads="none") as ledger:
        chat = ledger.conversation("k")
        ids = [chat.append("user", f"text {number}\nand more").message_id for number in range(4)]
        chat.retract(ids[1], "wrong person")


@pytest.fixture
def drifted(provider, command, monkeypatch):
    """A conversation whose thread lacks one message, holds one of somebody else, and another text in place of a third."""
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "responses")
    monkeypatch.setenv("THREADLEDGER_THREADS", "conversations")
    for number in range(6):
        command("append", "k", "user", f"{number}: {WORDS}")
    (held,) = provider.provider.store.conversations.values()
    first, second, _, _, fifth, _ = list(held.items)
    del held.items[second]
    held.items[fifth]["content"][0]["text"] = "4: Your parcel is in Basel and arrives tomorrow."
    foreign = held.items[first] | {"id": "msg_foreign", "content": [{"type": "input_text", "text": "Foreign.\x1b[31m"}]}
    held.items["msg_foreign"] = foreign
    return next(iter(provider.provider.store.conversations))


def test_what_came_and_went_is_marked_and_what_is_the_same_is_folded(retracted, command):
    done = command("diff", "k", "4..6")
    assert done.code == 4
    assert done.out == (
        "k  version 4 against version 6\n"
        "  1 message unchanged\n"
        "- user  journaled at version 3; retracted at version 6: wrong person\n"
        "-   text 1\n"
        "-   and more\n"
        "  1 message unchanged\n"
        "+ user  journaled at version 5\n"
        "+   text 3\n"
        "+   and more\n"
    )


def test_the_same_memory_is_exit_0_and_one_sentence(retracted, command):
    done = command("diff", "k", "6..")
    assert (done.code, done.out) == (0, "")
    assert done.err == "version 6 and version 6 have the same memory: 3 messages\n"


def test_json_has_an_array_of_the_differences_and_csv_a_line_for_each(retracted, command):
    rows = command("diff", "k", "4..6", "-o", "json").json
    assert [(row["change"], row["place_before"], row["place_after"]) for row in rows] == [
        ("went", 2, None),
        ("came", None, 3),
    ]
    assert (rows[0]["before"], rows[0]["after"], rows[0]["role"]) == ("text 1\nand more", None, "user")
    lines = command("diff", "k", "4..6", "-o", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert command("diff", "k", "4..6", "-o", "csv").out.startswith("change,place_before,place_after,message_id,")
    assert command("diff", "k", "6..", "-o", "json").json == []


@pytest.mark.parametrize(
    "given", ["3..", "..3", "..", "2026-01-01T00:00:00Z..", "24h..", "..2026-01-01", "6..3", "0..99"]
)
def test_a_moment_is_what_show_takes_and_either_end_may_be_open(retracted, command, given):
    assert command("diff", "k", given).code in {0, 4}


@pytest.mark.parametrize("given", ["3", "3...5", "a..b", "3..4..5", "²..3", f"{'9' * 5000}.."])
def test_a_range_that_cannot_be_read_is_refused_in_one_sentence(retracted, command, given):
    done = command("diff", "k", given)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("threadledger diff: ")


def test_a_conversation_that_is_not_there_is_exit_6(retracted, command):
    assert command("diff", "other", "1..2").code == 6


@pytest.mark.parametrize("given", [[], ["1..", "--thread"], ["1..", "--to", "conversations"]])
def test_a_range_or_the_thread_is_asked_for_not_both(retracted, command, given):
    assert command("diff", "k", *given).code == 2


def test_colours_are_for_terminals_and_marks_for_everybody(retracted, command, monkeypatch):
    assert "\x1b" not in command("diff", "k", "4..6").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[31m-   text 1\x1b[0m" in command("diff", "k", "4..6").out
    assert "\x1b[32m+   text 3\x1b[0m" in command("diff", "k", "4..6").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in command("diff", "k", "4..6").out


def test_a_thread_that_holds_what_the_journal_says_is_exit_0(provider, command):
    command("append", "k", "user", "Hello.")
    done = command("diff", "k", "--thread")
    assert (done.code, done.out) == (0, "")
    assert "matches the journal: 1 item" in done.err


def test_the_journal_against_the_thread_shows_the_words_that_changed(drifted, command):
    done = command("diff", "k", "--thread")
    assert done.code == 4
    lines = done.out.splitlines()
    assert lines[1] == "  1 item unchanged"
    assert lines[2] == "- user  place 2; journaled at version 4"
    assert lines[3] == f"-   1: {WORDS}"
    assert lines[4] == "  2 items unchanged"
    assert lines[5] == "~ user  place 5; place 4 of the thread; journaled at version 7"
    assert lines[6] == "~   4: Your parcel is [-on its way to Bern-]{+in Basel+} and arrives tomorrow."
    assert lines[7] == "  1 item unchanged"
    assert lines[8] == "+ user  place 6 of the thread"
    assert lines[9] == "+   Foreign.␛[31m"
    assert "replay rebuild" in done.err


def test_the_differences_to_a_thread_are_rows_for_scripts(drifted, command):
    rows = command("diff", "k", "--thread", "-o", "json").json
    assert [(row["change"], row["journal_place"], row["thread_place"]) for row in rows] == [
        ("missing", 2, None),
        ("different", 5, 4),
        ("extra", None, 6),
    ]
    assert {(row["backend"], row["thread_id"]) for row in rows} == {("conversations", drifted)}


def test_a_thread_is_only_read(drifted, provider, command):
    before = len(provider.requests)
    command("diff", "k", "--thread")
    assert {request.method for request in provider.requests[before:]} == {"GET"}


def test_a_thread_that_is_gone_lacks_all_of_it(drifted, provider, command):
    provider.lose(drifted)
    done = command("diff", "k", "--thread")
    assert done.code == 4
    assert "- everything, 6 items: there is no thread to read (gone: thread_missing" in done.out
    assert len(command("diff", "k", "--thread", "-o", "json").json) == 6


def test_texts_of_several_lines_are_shown_line_by_line_and_long_ones_folded():
    from rich.console import Console

    from threadledger.cli.diff import Drawn, draw

    console = Console(width=80, no_color=True)
    lines = [f"line {number}" for number in range(9)]
    with console.capture() as shown:
        draw(console, [Drawn("~", "user", "here", "\n".join(lines), "\n".join([*lines[:8], "last"]))])
    assert shown.get().splitlines() == [
        "~ user  here",
        "    line 0",
        "    ... 6 lines unchanged",
        "    line 7",
        "-   line 8",
        "+   last",
    ]


def test_two_texts_with_little_in_common_are_shown_as_wholes():
    from rich.console import Console

    from threadledger.cli.diff import Drawn, draw

    console = Console(width=80, no_color=True)
    with console.capture() as shown:
        draw(console, [Drawn("~", "user", "here", "Good morning.", "What a day that was, John!")])
    assert shown.get().splitlines() == ["~ user  here", "-   Good morning.", "+   What a day that was, John!"]
