"""What the commands say about named backends, and about what a fallback does not have."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
SECRET = "correct-horse-battery-staple"  # no pattern of keys matches it: it is known by its variable
FILE = """
chain = ["responses", "mistral", "local"]
retries = 0
threads = "none"

[backends.mistral]
kind = "chat"
base_url = "BASE_URL"
api_key_env = "MISTRAL_API_KEY"
model = "mistral-small"
extra = { temperature = 0.2 }

[backends.local]
kind = "python"
function = "app_of_the_command:answer"
"""


@pytest.fixture
def chain(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulator at two addresses: the provider of the settings, and a named backend."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app_of_the_command", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-key")
    monkeypatch.setenv("MISTRAL_API_KEY", SECRET)
    monkeypatch.setenv("THREADLEDGER_TRUST_DIR", str(Path.cwd()))
    Path("threadledger.toml").write_text(FILE.replace("BASE_URL", simulator.base_url.replace("127.0.0.1", "localhost")))
    Path("app_of_the_command.py").write_text("def answer(request):\n    return 'local'\n")
    return simulator


def test_config_shows_the_tables_and_no_secret(command: Command, chain: Any) -> None:
    rows = {row["name"]: row for row in command("config", "--origin", "-o", "json").json}
    assert rows["backends.mistral"]["value"].startswith("kind=chat, base_url=http://localhost:")
    assert "api_key_env=MISTRAL_API_KEY" in rows["backends.mistral"]["value"]
    assert rows["backends.local"]["value"] == "kind=python, function=app_of_the_command:answer"
    assert {rows[name]["origin"] for name in ("backends.local", "THREADLEDGER_RETRIES")} == {"threadledger.toml"}
    assert SECRET not in command("config").out


def test_doctor_checks_keys_and_functions_of_named_backends(
    command: Command, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[Any]:
        return [row for row in command("doctor", "-o", "json").json if "kind" in row["message"] or row["mend"]]

    command("init")
    assert [(row["check"], row["state"]) for row in found()] == [("backends", "ok"), ("backends", "ok")]
    monkeypatch.delenv("MISTRAL_API_KEY")
    Path("app_of_the_command.py").write_text("raise ValueError('not imported')\ndef other(request): ...\n")
    mends = {row["message"]: row["mend"] for row in found() if row["check"] == "backends"}
    assert mends == {
        "mistral: MISTRAL_API_KEY is not set": "set MISTRAL_API_KEY in the environment or in .env",
        "local: function: app_of_the_command has no function 'answer': define it, or name another one": (
            "correct function in [backends.local]"
        ),
    }


def test_commands_that_only_read_do_not_import_the_app(command: Command, chain: Any) -> None:
    command("append", "k", "system", "Be brief.")
    sys.modules.pop("app_of_the_command", None)
    for arguments in (("list",), ("show", "k"), ("audit", "failures"), ("config",)):
        assert command(*arguments).code == 0
    assert "app_of_the_command" not in sys.modules


def test_a_function_that_cannot_be_imported_is_the_failure_of_its_run_only(
    command: Command, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("app_of_the_command.py").write_text("import no_such_module_here\n")
    assert command("append", "k", "system", "Be brief.").code == 0
    assert command("ask", "k", "When?", "-o", "json").json["backend"] == "responses"
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "local,responses")
    done = command("ask", "k", "And?", "-o", "json").json
    assert done["backend"] == "responses"
    [failure] = done["failures"]
    assert (failure["cause"], failure["backend"]) == ("assistant_misconfigured", "local")
    assert "[backends.local] function: app_of_the_command cannot be imported (ModuleNotFound" in failure["message"]
    assert "correct function" in failure["advice"]


BROKEN = {"status": 500, "code": "server_error", "message": "The server had an error."}


def test_ask_says_what_the_fallback_was_not_given(command: Command, chain: Any) -> None:
    Path("profiles").mkdir()
    Path("profiles/john.toml").write_text('[[tools]]\ntype = "web_search"\n')
    chain.add_fault("POST /responses", refuse=BROKEN, times=4)
    done = command("ask", "k", "When?", "-o", "json")
    assert (done.json["backend"], done.json["dropped"]) == ("mistral", ["tool:web_search"])
    assert done.json["failures"][0]["endpoint"] == chain.base_url
    assert "answered by fallback: mistral (mistral-small), without tool:web_search" in command("ask", "k", "And?").err
    assert "mistral (mistral-small), without tool:web_search" in command("ask", "k", "And?", "--stream").err
    lines = command("ask", "k", "And?", "--stream", "-o", "jsonl").out.splitlines()
    announced = [json.loads(line) for line in lines if '"started_over"' in line]
    assert [each["dropped"] for each in announced] == [["tool:web_search"]]


def test_the_key_of_a_named_backend_is_nowhere(command: Command, chain: Any) -> None:
    refused = {"status": 401, "message": f"Unexpected header: {SECRET}"}
    chain.add_fault("POST /responses", refuse=refused)  # before a client with the key exists
    chain.add_fault("POST /chat/completions", refuse=refused)
    done = command("ask", "k", "When?", "-o", "json", "-v")
    assert done.json["answer"] == "local"
    assert SECRET not in done.out + done.err
    assert SECRET.encode() not in Path("threadledger.db").read_bytes()
    assert SECRET not in command("events", "-o", "json").out


def test_the_rest_of_a_continued_answer_is_printed_if_it_came_without_pieces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from threadledger.cli.ask import _Shown
    from threadledger.domain.exchange import Answer, Delta, StartedOver

    shown = _Shown()
    over = {
        "failed_run_id": "run-1",
        "run_id": "run-2",
        "backend": "b",
        "model": "m",
        "reason": "gone",
        "fallback": True,
    }
    answer = {"key": "k", "exchange_id": "x", "message_id": "m", "backend": "b", "model": "m"}
    for part in (
        Delta("one ", "run-1"),
        StartedOver(**over, continues=True),
        Answer("one two", run_id="run-2", **answer),
        Delta("other", "run-3"),
        StartedOver(**over),
        Answer("one two", run_id="run-2", **answer),
    ):
        shown.take(part)
    assert capsys.readouterr().out == "one two\nother\n[interrupted: this is not the answer]\none two\n"


def test_doctor_does_not_ask_the_provider_about_backends_elsewhere(
    command: Command, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.retire_model("mistral-small")
    command("init")
    models = [row for row in command("doctor", "--online", "-o", "json").json if row["check"] == "model"]
    assert ["gpt-5.5 (for responses)" in row["message"] for row in models] == [True]
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "mistral,local")
    done = command("doctor", "--online", "-o", "json")
    assert done.code == 0, [row for row in done.json if row["mend"]]
    found = {row["check"]: row["message"] for row in done.json}
    assert found["key"] == "no backend uses the provider of the settings"
    assert found["provider"] == "the provider was not called: no backend uses it"


def test_doctor_does_not_call_assistants_shut_down_that_live_elsewhere(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("threadledger.toml").write_text(
        'chain = ["assistants"]\nthreads = "none"\n[backends.assistants]\nbase_url = "http://localhost:9/v1"\n'
    )
    command("init")
    assert [row for row in command("doctor", "-o", "json").json if row["mend"]] == []


def test_a_command_that_reads_the_file_loads_no_provider(tmp_path: Path) -> None:
    import subprocess

    Path("threadledger.toml").write_text('[backends.m]\nkind = "chat"\napi_key_env = "X_KEY"\n')
    program = (
        "import sys, threadledger\n"
        "threadledger.open('sqlite:///x.db').conversations()\n"
        "print('threadledger.adapters.named_backends' in sys.modules, 'threadledger.adapters.openai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["True", "False"]


def test_an_error_at_the_import_of_a_function_does_not_show_a_key(
    command: Command, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", another := "wrong-horse-battery-staple")  # no other test has registered it
    Path("app_of_the_command.py").write_text("import os\nraise ValueError(os.environ['MISTRAL_API_KEY'])\n")
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "local")
    done = command("ask", "k", "When?")
    assert "cannot be imported (ValueError: " in done.err
    assert another not in done.err
    assert another.encode() not in Path("threadledger.db").read_bytes()


def test_doctor_notes_what_a_fallback_drops_and_calls_it_no_fault(
    command: Command, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("profiles").mkdir()
    Path("profiles/john.toml").write_text('[[tools]]\ntype = "web_search"\n')
    command("init")

    def found() -> list[tuple[str, str]]:
        rows = command("doctor", "-o", "json").json
        return [(row["state"], row["message"]) for row in rows if row["check"] == "profile"]

    assert found() == [
        ("ok", "as a fallback, mistral answers without tool:web_search"),
        ("ok", "as a fallback, local answers without tool:web_search"),
    ]
    monkeypatch.setenv("THREADLEDGER_FALLBACK", "strict")
    assert [(state, message.split()[0]) for state, message in found()] == [
        ("finding", "mistral:"),
        ("finding", "local:"),
    ]
    monkeypatch.setenv("THREADLEDGER_FALLBACK", "drop")
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "local,responses")
    assert [(state, message.split()[0]) for state, message in found()] == [("finding", "local:")]


def test_the_advice_for_a_named_backend_names_its_table(command: Command, chain: Any) -> None:
    chain.add_fault("POST /responses", refuse={"status": 401, "message": "Wrong key."})
    chain.add_fault("POST /chat/completions", refuse={"status": 401, "message": "Wrong key."})
    of_home, of_mistral = command("ask", "k", "When?", "-o", "json").json["failures"]
    assert "OPENAI_API_KEY" in of_home["advice"]
    assert "api_key_env" in of_mistral["advice"]
    assert "OPENAI_API_KEY" not in of_mistral["advice"]
    groups = command("audit", "groups", "-o", "json").json
    assert sorted("api_key_env" in group["advice"] for group in groups) == [False, True]
