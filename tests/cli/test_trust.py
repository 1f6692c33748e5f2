"""A folder that was not trusted: no command runs its code, or sends a key, a password or text to a host that only it names."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters.sql import connections
from threadledger.adapters.tool_loading import FILE_MODULE, load_from
from threadledger.domain.limits import SETTINGS_FILE_BYTES_MAX

from .auditing import open_story
from .command_table import KEY, TABLE, Entry

Command = Callable[..., Any]
SECRET = "sk-planted-in-the-environment"
SHADOWS = ("json", "click", "sqlalchemy", "pydantic", "openai", "typing_extensions", "sitecustomize", "usercustomize")
"""Modules that the commands import, or that Python does at its start."""
MARK = "with open('ran', 'a') as ran: ran.write(__name__ + ' ')\n"
FUNCTIONS = f"{MARK}def look(**given): return 'x'\ndef answer(request): return 'x'\n"
PRINTS_A_PLAN = {("replay", "rebuild"), ("replay", "rerun")}
"""Commands that send nothing with the arguments of the table, because they print a plan."""
RUNS_UNTIL_STOPPED = {path for path, entry in TABLE.items() if entry.serves}
CODE_OF_REFUSAL = 2


@pytest.fixture
def provider(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host that records what it is sent; the key is in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield simulator
    load_from({})
    for name in ("evil", FILE_MODULE):
        sys.modules.pop(name, None)


@pytest.fixture
def hostile(provider: Any, tmp_path: Path) -> Path:
    """A working folder that names code of its own and a host, with a ledger in it."""
    files = {
        ".env": f"OPENAI_BASE_URL={provider.base_url}\nTHREADLEDGER_TOOLS=evil.py\nTHREADLEDGER_RETRIES=0\n",
        "threadledger.toml": '[backends.local]\nkind = "python"\nfunction = "evil:answer"\n',
        "profiles/john.toml": 'name = "John"\n[[tools]]\nname = "look"\n',
        "evil.py": FUNCTIONS,
        **{f"{name}.py": MARK for name in SHADOWS},
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    open_story("sqlite:///threadledger.db").close()
    return tmp_path


def arguments_of(entry: Entry, number: int) -> list[str]:
    """Return the arguments with new names for what a command makes."""
    made = {"FILE": f"made-{number}", "FOLDER": f"folder-{number}", "URL": f"sqlite:///copy-{number}.db"}
    return [made.get(argument, argument) for argument in entry.arguments]


def called(command: Command, *left_out: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each command of the table with its outcome."""
    for number, (path, entry) in enumerate(TABLE.items()):
        if path not in {*left_out, *RUNS_UNTIL_STOPPED}:
            yield path, command(*arguments_of(entry, number), stdin=b"Where is it?\n" if path == ("chat",) else b"")


def ran(folder: Path) -> list[str]:
    """Return the modules of the folder that ran."""
    return (folder / "ran").read_text().split() if (folder / "ran").exists() else []


def test_no_command_runs_code_or_sends_a_key_before_the_folder_is_trusted(
    command: Command, hostile: Path, provider: Any
) -> None:
    refused = set()
    for path, done in called(command, ("trust",)):
        assert (ran(hostile), provider.requests) == ([], []), path
        if "then run: threadledger trust" in done.err:
            assert done.code == CODE_OF_REFUSAL, path
            refused.add(path)
    senders = {path for path, entry in TABLE.items() if entry.reaches_the_provider or entry.runs_a_model}
    assert refused == senders - PRINTS_A_PLAN - RUNS_UNTIL_STOPPED
    assert [message["role"] for message in command("show", KEY, "-o", "json").json["messages"]] == ["user", "assistant"]


def test_only_a_run_imports_code_of_a_trusted_folder(command: Command, hostile: Path, provider: Any) -> None:
    assert command("trust").code == 0
    for path, done in called(command, ("demo",), *(path for path, entry in TABLE.items() if entry.runs_a_model)):
        assert "threadledger trust" not in done.err, path
        assert ran(hostile) == [], path
    assert provider.requests
    assert command("ask", KEY, "Where is it?").code == 0
    assert ran(hostile) == [FILE_MODULE]


@pytest.mark.parametrize("changed", [".env", "threadledger.toml", "evil.py"])
def test_a_change_of_a_file_needs_trust_again(command: Command, hostile: Path, provider: Any, changed: str) -> None:
    command("trust")
    assert command("ask", "k", "Where is it?").code == 0
    sent = len(provider.requests)
    (hostile / changed).write_text((hostile / changed).read_text() + "# changed\n")
    done = command("ask", "k", "Where is it?")
    assert (done.code, len(provider.requests)) == (CODE_OF_REFUSAL, sent)
    assert f"changed since it was trusted ({changed})" in done.err
    assert command("trust").code == command("ask", "k", "Where is it?").code == 0


def test_a_revoked_folder_needs_trust_again(command: Command, hostile: Path) -> None:
    command("trust")
    assert command("trust", "--revoke", "-o", "json").json["trusted"] is False
    assert "was not trusted" in command("trust", "--revoke").out
    assert command("ask", "k", "Where is it?").code == CODE_OF_REFUSAL


def test_trust_says_what_it_allows(command: Command, hostile: Path, provider: Any, tmp_path: Path) -> None:
    done = command("trust", str(tmp_path), "-o", "json")
    host = provider.base_url.removesuffix("/v1")
    assert done.json == {
        "folder": str(tmp_path),
        "trusted": True,
        "files": [".env", "threadledger.toml", "evil.py"],
        "reasons": [
            f"OPENAI_BASE_URL (.env) sends OPENAI_API_KEY of the environment to {host}",
            "THREADLEDGER_TOOLS (.env) names code of the folder (evil.py)",
            "backends.local (threadledger.toml) names code of the folder (evil)",
        ],
    }


def test_config_and_doctor_show_what_needs_trust(command: Command, hostile: Path) -> None:
    def shown() -> dict[str, str]:
        done = command("config", "--origin", "-o", "json")
        return {row["name"]: row["trust"] for row in done.json if row["trust"] is not None}

    names = ("OPENAI_BASE_URL", "THREADLEDGER_TOOLS", "backends.local")
    assert shown() == dict.fromkeys(names, "not trusted")
    rows = [row for row in command("doctor", "-o", "json").json if row["check"] == "trust"]
    assert [row["state"] for row in rows] == ["finding"] * 3
    assert all("threadledger trust" in row["mend"] for row in rows)
    command("trust")
    assert shown() == dict.fromkeys(names, "trusted")
    (hostile / "evil.py").write_text(f"{FUNCTIONS}# changed\n")
    assert shown() == dict.fromkeys(names, "changed")


def test_doctor_sends_no_key_to_an_untrusted_host(command: Command, hostile: Path, provider: Any) -> None:
    rows = [row for row in command("doctor", "--online", "-o", "json").json if row["check"] == "provider"]
    assert [(row["state"], row["mend"]) for row in rows] == [
        ("finding", "read the files that it names, then: threadledger trust")
    ]
    assert provider.requests == []


def test_an_import_of_live_threads_sends_no_key_to_an_untrusted_host(
    command: Command, hostile: Path, provider: Any
) -> None:
    done = command("import", "--threads", "-", stdin=b"thread_1\n")
    assert (done.code, provider.requests) == (CODE_OF_REFUSAL, [])
    assert "threadledger trust" in done.err


class Server:
    """A host that records how often it is connected to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            accepted = self.listener.accept()[0]
            if not self._stopped:
                self.connections += 1  # before the client can notice that it was closed
            accepted.close()
            if self._stopped:
                return

    def stop(self) -> None:
        self._stopped = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self.listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def test_no_command_connects_to_a_database_that_would_get_a_password_of_the_environment(
    command: Command, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)
    (tmp_path / ".env").write_text(f"THREADLEDGER_DB=postgresql+psycopg://me@127.0.0.1:{server.port}/ledger\n")
    for path, done in called(command, ("trust",), ("demo",), ("db", "restore")):  # a server is not restored
        assert server.connections == 0, path
        wants_ledger = not TABLE[path].without_ledger and path not in (("doctor",), ("db", "restore"))
        assert ("threadledger trust" in done.err) == wants_ledger, (path, done.err)
    (row,) = [
        row
        for row in command("doctor", "-o", "json").json
        if "THREADLEDGER_DB" in row["message"] and row["check"] != "trust"
    ]
    assert row["mend"] == "read the files that it names, then: threadledger trust"
    command("trust")
    monkeypatch.setattr(connections, "RECONNECT_SECONDS", 0.0)
    assert command("list").code == 1
    assert server.connections > 0


def test_init_trusts_what_it_writes_and_nothing_else(command: Command, provider: Any, tmp_path: Path) -> None:
    (tmp_path / "threadledger.toml").write_text('[backends.local]\nkind = "python"\nfunction = "evil:answer"\n')
    (tmp_path / "evil.py").write_text(FUNCTIONS)
    assert command("init").code == 0
    (row,) = [row for row in command("doctor", "-o", "json").json if row["check"] == "trust"]
    assert "changed since it was trusted (threadledger.toml, evil.py)" in row["message"]


def test_an_env_file_with_its_own_key_needs_no_trust(command: Command, simulator: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"OPENAI_BASE_URL={simulator.base_url}\nOPENAI_API_KEY=any\n")
    assert command("ask", "k", "Where is it?").code == 0
    assert simulator.requests


def test_code_is_refused_before_a_question_is_stored_or_a_job_starts(
    command: Command, hostile: Path, simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    (hostile / ".env").write_text(
        f"OPENAI_BASE_URL={simulator.base_url}\nOPENAI_API_KEY=own\nTHREADLEDGER_TOOLS=evil.py\n"
    )
    before = command("export", "--all").out
    for arguments in (("ask", "k", "Where?"), ("replay", "rerun", "--failed", "--apply", "--yes")):
        done = command(*arguments)
        assert (done.code, simulator.requests, ran(hostile)) == (CODE_OF_REFUSAL, [], []), done.err
        assert "THREADLEDGER_TOOLS (.env) names code of the folder (evil.py)" in done.err
    assert (command("export", "--all").out, command("replay", "jobs", "-o", "json").json) == (before, [])
    assert command("append", "k", "user", "Hello.").code == 0


def test_an_app_opens_the_ledger_of_its_folder_without_trust(hostile: Path, provider: Any) -> None:
    import threadledger

    with threadledger.open() as ledger:
        ledger.conversation("k").append("user", "Hello.")
        assert ran(hostile) == []
        assert ledger.conversation("k").ask("Where is it?").text
    assert ran(hostile) == [FILE_MODULE]


def test_tools_that_cannot_be_loaded_are_refused_before_a_question_is_stored(
    simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threadledger

    monkeypatch.setenv("THREADLEDGER_TOOLS", "nowhere.py")
    settings = {"openai_api_key": "k", "openai_base_url": simulator.base_url}
    with threadledger.open(**settings) as ledger:
        chat = ledger.conversation("k")
        chat.append("system", "Be brief.")
        with pytest.raises(threadledger.InvalidSettings, match=r"there is no file nowhere\.py"):
            chat.ask("Where is it?")
        assert len(chat.memory().messages) == 1


SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize(
    "arguments",
    [("threadledger", "list"), ("threadledger", "ask", KEY, "Where is it?"), ("replay", "verify", "--all")],
    ids=" ".join,
)
def test_a_process_imports_no_module_of_the_folder_instead_of_a_library(
    hostile: Path, provider: Any, config_home: Path, arguments: tuple[str, ...]
) -> None:
    environment = {**os.environ, "HOME": str(hostile), "XDG_CONFIG_HOME": str(config_home)}
    done = subprocess.run(
        [SCRIPTS / arguments[0], *arguments[1:]], env=environment, capture_output=True, text=True, check=False
    )
    assert (ran(hostile), provider.requests) == ([], [])
    assert ("threadledger trust" in done.stderr) == (arguments[1] != "list")


ENDLESS = {"a device": "/dev/zero", "a link to a device": "link.py", "a pipe": "pipe.py", "a large file": "large.py"}
NAMING = ("THREADLEDGER_PROFILE", "THREADLEDGER_CONFIG", "THREADLEDGER_TOOLS")
ANY_COMMANDS = (("list",), ("config", "--origin"), ("doctor",), ("trust",), ("ask", "k", "Hi"))


@pytest.mark.parametrize("name", NAMING)
@pytest.mark.parametrize("place", ENDLESS.values(), ids=ENDLESS)
def test_no_command_reads_a_file_without_an_end_that_the_folder_names(
    command: Command, provider: Any, tmp_path: Path, name: str, place: str
) -> None:
    (tmp_path / "link.py").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.py")
    with (tmp_path / "large.py").open("wb") as large:
        large.truncate(SETTINGS_FILE_BYTES_MAX + 1)
    (tmp_path / ".env").write_text(f"{name}={place}\n")
    done = [command(*arguments) for arguments in ANY_COMMANDS]
    assert all("unexpected error" not in each.err for each in done)
    assert done[-1].code in (2, 6), done[-1].err
    assert "cannot be read" in done[-1].err or "no module" in done[-1].err
    assert provider.requests == []


def test_code_that_became_too_large_to_compare_is_not_run(command: Command, hostile: Path, provider: Any) -> None:
    command("trust")
    with (hostile / "evil.py").open("a") as file:
        file.write("#" * SETTINGS_FILE_BYTES_MAX)
    done = command("ask", "k", "Where is it?")
    assert (done.code, ran(hostile), provider.requests) == (CODE_OF_REFUSAL, [], [])
    assert "evil.py cannot be read" in done.err


def test_a_variable_that_is_set_for_one_command_is_part_of_the_advice(
    command: Command, provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
    (tmp_path / "evil.py").write_text(FUNCTIONS)
    command("trust")
    monkeypatch.setenv("THREADLEDGER_TOOLS", "evil.py")
    assert "then run with the same THREADLEDGER_TOOLS: threadledger trust" in command("ask", "k", "Hi").err
    command("trust")
    monkeypatch.delenv("THREADLEDGER_TOOLS")
    command("trust")  # for another file
    monkeypatch.setenv("THREADLEDGER_TOOLS", "evil.py")
    assert command("ask", "k", "Hi").code == 0
