"""Bad input: one clear sentence, the documented exit code, nothing lost, never a traceback."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def sentences(err: str) -> list[str]:
    return [line for line in err.splitlines() if line and not line.startswith("See: ")]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("append", "", "user", "x"), 2, "a conversation key of 0 characters"),
        (("append", "k" * 201, "user", "x"), 2, "a conversation key of 201 characters"),
        (("append", "k", "robot", "x"), 2, "unknown role 'robot'"),
        (("append", "k", "tool", "x"), 2, "no tool_call_id"),
        (("append", "k", "user", "caf\udce9"), 2, "not UTF-8"),
        (("ask", "caf\udce9", "x"), 2, "not UTF-8"),
        (("append", "k", "user", "x", "--idempotency-key", ""), 2, "idempotency key of 0 characters"),
        (("import", "missing.jsonl"), 6, "missing.jsonl cannot be read"),
        (("simulate", "--script", "missing.json"), 6, "missing.json cannot be read"),
        (("list",), 6, "there is no database at"),
        (("show", "nobody", "--at", "yesterday"), 2, "is not a time"),
        (("show", "nobody", "--at", "²"), 2, "'²' is not a time"),
        (("show", "nobody", "--at", "9" * 5_000), 2, "999… is not a time"),
        (("audit", "failures", "--since", f"{'9' * 5_000}d"), 2, "999… is too far in the past"),
        (("audit", "failures", "--since", "²d"), 2, "'²d' is not a time"),
        (("--db", "mysql://x", "list"), 2, "databases of kind 'mysql'"),
        (("--db", "nonsense", "list"), 6, "there is no database at sqlite:///nonsense"),
        (("--db", "nonsense://", "list"), 2, "databases of kind 'nonsense'"),
        (("--db", "://x", "list"), 2, "URL cannot be read"),
        (("--db", "", "list"), 2, "URL cannot be read"),
        (("--db", "postgres:/me:secret@host/x", "list"), 2, "postgres: is not followed by ://"),
        (("--db", "sqlite:x.db", "list"), 2, "sqlite: is not followed by ://"),
        (("--db", "~nobody-here/x.db", "list"), 2, "unknown user"),
        (("--db", "sqlite://", "list"), 2, "in-memory"),
        (("--db", "sqlite:///no/such/folder/x.db", "init"), 1, "create the folder"),
        (("lsit",), 2, "did you mean 'list'"),
        (("replay", "rebuild"), 2, "name conversations, or pass exactly one"),
        (("replay", "rerun"), 2, "name runs or conversations, or pass --failed"),
        (("audit", "failures", "--since", "99999999999w"), 2, "too far in the past"),
    ],
)
def test_bad_input_gets_one_sentence(command: Command, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = command(*arguments)
    assert done.code == code
    assert told in done.err
    assert len(sentences(done.err)) == 1
    assert done.out == ""


def test_standard_input_that_is_not_utf8_is_refused(command: Command) -> None:
    done = command("append", "k", "user", "-", stdin=b"caf\xe9")
    assert (done.code, "not UTF-8" in done.err) == (2, True)


def test_a_message_of_ten_megabytes_is_refused_and_the_conversation_is_as_before(command: Command) -> None:
    command("append", "k", "user", "before")
    done = command("append", "k", "user", "-", stdin=b"x" * 10_000_000)
    assert (done.code, "over the limit of 8,388,608 bytes" in done.err) == (2, True)
    assert [m["content"] for m in command("show", "k", "-o", "json").json["messages"]] == ["before"]


def test_what_is_not_there_exits_6(command: Command) -> None:
    command("append", "k", "user", "Hello")
    for arguments in (
        ("show", "x"),
        ("events", "x"),
        ("export", "x"),
        ("replay", "verify", "x"),
        ("replay", "rerun", "x"),
    ):
        assert command(*arguments).code == 6, arguments


def test_another_programs_database_is_refused_and_not_touched(command: Command, tmp_path: Any) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE users (name TEXT)")
    other.commit()
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    for arguments in (("list",), ("append", "k", "user", "x"), ("init",)):
        done = command("--db", "sqlite:///other.db", *arguments)
        assert (done.code, "its tables are users" in done.err) == (1, True)
    with sqlite3.connect(tmp_path / "other.db") as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("users",)]
    assert len((tmp_path / "other.db").read_bytes()) == len(before)


def test_a_file_that_is_no_database_is_refused_and_not_touched(command: Command, tmp_path: Any) -> None:
    (tmp_path / "notes.db").write_text("my notes, not a database at all, and long enough to be read as one\n" * 20)
    before = (tmp_path / "notes.db").read_bytes()
    done = command("--db", "sqlite:///notes.db", "append", "k", "user", "x")
    assert (done.code, "is not a database" in done.err) == (1, True)
    assert (tmp_path / "notes.db").read_bytes() == before


def test_a_wrong_key_is_named_and_never_shown(command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from threadledger.adapters import Simulator

    with Simulator(api_key="sk-right-one") as strict:
        monkeypatch.setenv("OPENAI_BASE_URL", strict.base_url)
        done = command("ask", "k", "When?")
        shown = command("audit", "failures", "-o", "json")
        raw = command("events", "-o", "json")
    assert done.code == 1
    assert "authentication" in done.err
    assert "OPENAI_API_KEY" in done.err
    assert {failure["cause"] for failure in shown.json} == {"authentication"}
    assert "sk-planted" not in done.err + shown.out + raw.out
    assert command("show", "k", "-o", "json").json["messages"][0]["content"] == "When?"


def test_an_unreachable_provider_is_named_and_the_question_kept(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
    done = command("ask", "k", "When?")
    assert done.code == 1
    assert "network" in done.err
    assert "OPENAI_BASE_URL" in done.err
    assert command("append", "k", "user", "More").code == 0
    assert [m["content"] for m in command("show", "k", "-o", "json").json["messages"]] == ["When?", "More"]


def test_without_a_key_messages_are_journaled_and_asking_says_what_is_missing(command: Command) -> None:
    assert command("append", "k", "user", "Hello").code == 0
    done = command("ask", "k", "When?")
    assert done.code == 1
    assert "OPENAI_API_KEY" in done.err


def test_a_bad_setting_is_named(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADLEDGER_RETRIES", "many")
    done = command("list")
    assert done.code == 2
    assert "THREADLEDGER_RETRIES" in done.err


def test_a_reader_that_goes_away_early_is_no_error(tmp_path: Any) -> None:
    program = "from threadledger.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    line = '{"id": "k%d", "messages": [{"role": "user", "content": "Hello"}]}'
    (tmp_path / "many.jsonl").write_text("\n".join(line % number for number in range(2_000)))
    subprocess.run(
        [sys.executable, "-c", program, "import", "many.jsonl"], cwd=tmp_path, check=True, capture_output=True
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "export", "--all"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as export:
        assert export.stdout is not None
        export.stdout.readline()
        export.stdout.close()
        assert export.stderr is not None
        assert export.stderr.read() == b""


def test_init_keeps_the_path_of_the_database_that_it_is_given(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("my chats.db", "it's $HOME #1.db", "a\\b.db", "chats.db")):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert command("--db", name, "init").code == 0
        assert command("append", "k", "user", "Hello").code == 0
        assert {path.name for path in folder.iterdir()} == {".env", name}


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", "failures", "--since", "https://user:pl4nted-p4ss@host"),
        ("list", "sk-proj-pl4nted0000"),
        ("show", "k", "--at", "token=pl4nted0000"),
        ("--db", "postgresql:user:pl4nted-p4ss@host", "list"),
    ],
)
def test_an_error_about_a_value_that_was_typed_does_not_repeat_its_secret(
    command: Command, arguments: tuple[str, ...]
) -> None:
    done = command(*arguments)
    assert done.code != 0
    assert "pl4nted" not in done.err + done.out


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x.db?plugin=some",
        "sqlite:///x.db?timeout=long",
        "sqlite+none:///x.db",
        "sqlite+aiosqlite:///x.db",
        "postgresql+psycopg://host/x?plugin=some",
        "postgresql+psycopg://\u202ehost/x",
        f"postgresql+psycopg://{'h' * 300}/x",
    ],
)
def test_an_address_of_a_database_that_cannot_be_used_is_one_sentence(command: Any, url: str) -> None:
    done = command("--db", url, "append", "k", "user", "Hello")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert "unexpected error" not in done.err


@pytest.mark.parametrize(
    "address",
    [
        "host",
        "http://[",
        "ftp://host/v1",
        "http://h:99999/v1",
        "http://h:x/v1",
        "http://h/\x1b",
        "http://\u202eh",
        "http://" + "h" * 64,
    ],
)
def test_an_address_that_no_request_can_be_sent_to_is_one_sentence(
    command: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    done = command("ask", "k", "Hello")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert "OPENAI_BASE_URL is not an address" in done.err
    assert command("list", "-o", "json").json == []
