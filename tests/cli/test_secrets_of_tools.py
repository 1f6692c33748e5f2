"""Named secrets on the command line: what an untrusted folder may send, and what doctor and the audit show of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import threadledger
from threadledger.adapters import FolderTrust, load_settings
from threadledger.domain.conversation import Profile
from threadledger.domain.conversation.tool_secrets import VARIABLE
from threadledger.domain.errors import AllBackendsFailed

Command = Callable[..., Any]
VALUE = "tracker-value-4711"
MCP = '[[tools]]\ntype = "mcp"\nserver_label = "t"\nserver_url = "https://tools.test/mcp"\n'
NAMED = f'name = "Ann"\n{MCP}authorization = {{ secret = "TRACKER" }}\n'
ROUTE = "POST /responses"
CODE_OF_REFUSAL = 2


@pytest.fixture
def provider(simulator: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulator, which the environment names as it does the secret; the working folder has the profile."""
    settings = {
        "OPENAI_BASE_URL": simulator.base_url,
        "OPENAI_API_KEY": "sk-planted-secret-key",
        "THREADLEDGER_RETRIES": "0",
        "THREADLEDGER_BACKENDS": "responses",
        "THREADLEDGER_THREADS": "none",
        f"{VARIABLE}TRACKER": VALUE,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    Path("profiles").mkdir()
    Path("profiles/john.toml").write_text(NAMED, encoding="utf-8")
    return simulator


def sent(provider: Any) -> list[Any]:
    return [each.body["tools"][0].get("authorization") for each in provider.requests if each.template == ROUTE]


def test_a_profile_of_an_untrusted_folder_sends_no_secret_of_the_environment(command: Command, provider: Any) -> None:
    done = command("ask", "k", "Where is it?")
    assert (done.code, provider.requests) == (CODE_OF_REFUSAL, [])
    assert f"its profile chooses where to send {VARIABLE}TRACKER of the environment" in done.err
    assert "check profiles/john.toml, then run: threadledger trust" in done.err
    assert command("list", "-o", "json").json == []  # nothing was stored
    assert command("trust").code == command("ask", "k", "Where is it?").code == 0
    assert sent(provider) == [VALUE]


def test_a_profile_that_changes_needs_trust_again(command: Command, provider: Any) -> None:
    command("trust")
    Path("profiles/john.toml").write_text(NAMED.replace("tools.test", "elsewhere.test"), encoding="utf-8")
    done = command("ask", "k", "Where is it?")
    assert (done.code, provider.requests) == (CODE_OF_REFUSAL, [])
    assert "changed since it was trusted (profiles/john.toml)" in done.err


def test_the_profile_that_is_sent_is_the_one_that_was_compared(provider: Any) -> None:
    settings = load_settings()
    FolderTrust.check(settings)
    assert [need.setting for need in FolderTrust(settings).needs("secrets")] == ["THREADLEDGER_PROFILE"]
    FolderTrust(settings).grant()
    settings.require_trust("secrets")
    Path("profiles/john.toml").write_text(NAMED.replace("tools.test", "elsewhere.test"), encoding="utf-8")
    assert "tools.test" in settings.load_profile().tools_json


def test_a_profile_without_secrets_is_not_compared(command: Command, provider: Any) -> None:
    Path("profiles/john.toml").write_text('name = "Ann"\n', encoding="utf-8")
    command("trust")
    Path("profiles/john.toml").write_text('name = "Ben"\n', encoding="utf-8")
    assert command("ask", "k", "Where is it?").code == 0
    assert "nothing in the folder needs trust" in command("config", "--origin").err


def test_a_secret_in_the_folders_own_env_file_is_the_folders(
    command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"{VARIABLE}TRACKER")
    Path(".env").write_text(f"{VARIABLE}TRACKER=value-of-the-folder\n", encoding="utf-8")
    assert command("ask", "k", "Where is it?").code == 0
    assert sent(provider) == ["value-of-the-folder"]


def test_an_env_file_does_not_pass_on_another_variable_as_a_secret(
    command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"{VARIABLE}TRACKER")
    Path(".env").write_text(f"{VARIABLE}TRACKER=${{OPENAI_API_KEY}}\n", encoding="utf-8")
    done = command("ask", "k", "Where is it?")
    assert (done.code, provider.requests) == (CODE_OF_REFUSAL, [])
    assert (
        "its profile chooses where to send variables of the environment that .env inserts: nothing was sent" in done.err
    )


@pytest.mark.parametrize("own", ["nothing", "profile", "host", "database"])
def test_a_secret_needs_trust_if_the_folder_has_a_part_in_where_it_goes(
    command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, own: str
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "profile.toml").write_text(NAMED, encoding="utf-8")
    monkeypatch.setenv("THREADLEDGER_DB", f"sqlite:///{elsewhere}/x.db")
    monkeypatch.setenv("THREADLEDGER_PROFILE", str(elsewhere / "profile.toml"))
    if own == "database":
        monkeypatch.delenv("THREADLEDGER_DB")
    elif own == "profile":
        monkeypatch.delenv("THREADLEDGER_PROFILE")
    elif own == "host":
        monkeypatch.delenv("OPENAI_BASE_URL")
        monkeypatch.delenv("OPENAI_API_KEY")
        lines = f"OPENAI_BASE_URL={provider.base_url}\nOPENAI_API_KEY=own-key-1\nTHREADLEDGER_DB=own.db\n"
        Path(".env").write_text(lines, encoding="utf-8")
        monkeypatch.delenv("THREADLEDGER_DB")
    done = command("ask", "k", "Where is it?")
    if own == "nothing":
        assert (done.code, sent(provider)) == (0, [VALUE])
        return
    assert (done.code, provider.requests) == (CODE_OF_REFUSAL, [])
    assert f"its {own} chooses where to send {VARIABLE}TRACKER of the environment" in done.err


def test_a_profile_that_a_folders_ledger_has_recorded_sends_no_secret_either(
    command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.add_fault(ROUTE, refuse={"status": 400}, times=1)
    with threadledger.open("sqlite:///threadledger.db") as ledger, pytest.raises(AllBackendsFailed):
        tool = {
            "type": "mcp",
            "server_label": "t",
            "server_url": "https://evil.test",
            "authorization": {"secret": "TRACKER"},
        }
        ledger.conversation("k").ask("Where is it?", profile=Profile(tools_json=json.dumps([tool])))
    Path("profiles/john.toml").write_text('name = "Ann"\n', encoding="utf-8")
    before = len(provider.requests)
    done = command("replay", "rerun", "k", "--apply", "--yes", "-o", "json")
    assert done.code != 0
    assert len(provider.requests) == before
    assert VALUE not in done.out + done.err
    [_, failure] = command("audit", "failures", "-o", "json").json
    assert failure["cause"] == "assistant_misconfigured"
    assert f"its database chooses where to send {VARIABLE}TRACKER" in failure["message"]
    command("trust")
    assert command("replay", "rerun", "k", "--apply", "--yes").code == 0
    assert sent(provider)[-1] == VALUE


def test_a_name_without_a_value_is_a_finding(command: Command, provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command("trust")
    command("append", "k", "user", "Hello.")
    monkeypatch.delenv(f"{VARIABLE}TRACKER")
    found = [each for each in command("doctor", "-o", "json").json if each["state"] == "finding"]
    assert f"{VARIABLE}TRACKER is not set" in json.dumps([each for each in found if each["check"] == "profile"])


def test_a_profile_that_holds_a_secret_is_one_sentence(command: Command, provider: Any) -> None:
    Path("profiles/john.toml").write_text(f'name = "Ann"\n{MCP}authorization = "{VALUE}"\n', encoding="utf-8")
    for arguments in (("ask", "k", "Where is it?"), ("list",), ("doctor", "-o", "json")):
        done = command(*arguments)
        assert done.code != 0
        assert VALUE not in done.out + done.err
        assert "profiles/john.toml: the tool 'mcp' holds a secret" in done.out + done.err
        said = json.dumps(done.json).replace("\\", "") if "json" in arguments else done.err
        assert 'write {"secret": "NAME"} in place of authorization' in said


def test_the_audit_shows_the_name(command: Command, provider: Any) -> None:
    command("trust")
    provider.add_fault(ROUTE, refuse={"status": 424, "message": f"no access with {VALUE}"})
    command("ask", "k", "Where is it?")
    [failure] = command("audit", "failures", "-o", "json").json
    shown = [
        command("audit", "show", failure["run_id"], "--memory", "-o", "json"),
        command("audit", "show", failure["run_id"], "--memory"),
        command("export", "k"),
        command("-v", "show", "k"),
    ]
    assert '"authorization": {"secret": "TRACKER"}' in json.dumps(shown[0].json)
    assert VALUE not in "".join(each.out + each.err for each in shown)
    assert VALUE.encode() not in b"".join(path.read_bytes() for path in Path.cwd().glob("threadledger.db*"))
    assert os.environ[f"{VARIABLE}TRACKER"] == VALUE
