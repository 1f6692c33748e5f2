"""What of a working folder needs trust, by where host, key, code and database come from."""

from __future__ import annotations

import json
import os
import py_compile
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadledger.adapters import FolderNotTrusted, FolderTrust, load_settings, revoke, trust_file
from threadledger.adapters.named_backends import key_of
from threadledger.adapters.tool_loading import FILE_MODULE, ModuleTools, load_from, load_tools, module_files
from threadledger.domain.conversation import parse_profile
from threadledger.domain.errors import InvalidSettings

PLANTED = "planted"
LOOK = parse_profile({"tools": [{"name": "look"}]}, "a profile")
HOST = "OPENAI_BASE_URL=https://host.invalid/v1\n"
AZURE = "AZURE_OPENAI_ENDPOINT=https://host.invalid\nAZURE_OPENAI_API_KEY=own\nOPENAI_API_VERSION=2025-04-01-preview\n"
KEY = "OPENAI_API_KEY=own\n"
MISTRAL = '[backends.mistral]\nkind = "chat"\nbase_url = "https://host.invalid/v1"\nmodel = "m"\n'
NAMED_KEY = 'api_key_env = "MISTRAL_API_KEY"\n'
CLAUDE = '[backends.claude]\nkind = "anthropic"\nmodel = "m"\n'
OWN_CLAUDE = f'{CLAUDE}base_url = "https://host.invalid"\n'
FUNCTION = '[backends.local]\nkind = "python"\nfunction = "my_code:answer"\n'
POSTGRES = "THREADLEDGER_DB=postgresql+psycopg://"

# Name: environment, .env, threadledger.toml, options, settings that need trust.
Case = tuple[dict[str, str], str, str, dict[str, Any], set[str]]
CASES: dict[str, Case] = {
    "an empty folder": ({"OPENAI_API_KEY": PLANTED}, "", "", {}, set()),
    "a key for the host of the default": ({}, KEY, "", {}, set()),
    "reruns that a worker pays for": ({}, "THREADLEDGER_RERUN_UNANSWERED=5", "", {}, {"THREADLEDGER_RERUN_UNANSWERED"}),
    "no reruns": ({}, "THREADLEDGER_RERUN_UNANSWERED=never", "", {}, set()),
    "reruns that the environment asks for": ({"THREADLEDGER_RERUN_UNANSWERED": "5"}, "", "", {}, set()),
    "a webhook for a database of its own": (
        {}, "THREADLEDGER_WEBHOOK=https://host.invalid\nTHREADLEDGER_DB=own.db", "", {}, set(),
    ),
    "a webhook for a database that is not the folder's": (
        {"THREADLEDGER_DB": "/elsewhere/chats.db"}, "THREADLEDGER_WEBHOOK=https://host.invalid", "", {}, {"THREADLEDGER_WEBHOOK"},
    ),
    "a host with its own key": ({}, HOST + KEY, "", {}, set()),
    "a host and no key at all": ({}, HOST, "", {}, set()),
    "a host, and a key of the environment": ({"OPENAI_API_KEY": PLANTED}, HOST, "", {}, {"OPENAI_BASE_URL"}),
    "a host of this machine": (
        {"OPENAI_API_KEY": PLANTED}, "OPENAI_BASE_URL=http://127.0.0.1:8765/v1", "", {}, {"OPENAI_BASE_URL"},
    ),
    "the default host": ({"OPENAI_API_KEY": PLANTED}, "OPENAI_BASE_URL=https://api.openai.com/v1", "", {}, set()),
    "the default host without encryption": (
        {"OPENAI_API_KEY": PLANTED}, "OPENAI_BASE_URL=http://api.openai.com/v1", "", {}, {"OPENAI_BASE_URL"},
    ),
    "a host of the environment": ({"OPENAI_API_KEY": PLANTED, "OPENAI_BASE_URL": "https://host.invalid/v1"}, KEY, "", {}, set()),
    "a host of an option": ({"OPENAI_API_KEY": PLANTED}, HOST, "", {"openai_base_url": "https://host.invalid"}, set()),
    "a host in the file of named backends": (
        {"OPENAI_API_KEY": PLANTED}, "", 'openai_base_url = "https://host.invalid/v1"', {}, {"OPENAI_BASE_URL"},
    ),
    "a host under two spellings of its name": (
        {"OPENAI_API_KEY": PLANTED}, f"{HOST}openai_base_url=\n", "", {}, {"OPENAI_BASE_URL"},
    ),
    "an address that is not valid": (
        {"OPENAI_API_KEY": PLANTED}, "OPENAI_BASE_URL=https://[host/v1", "", {}, {"OPENAI_BASE_URL"},
    ),
    "a key that is taken from the environment by name": (
        {"SECRET": PLANTED}, HOST + "OPENAI_API_KEY=${SECRET}\n", "", {}, {"OPENAI_BASE_URL"},
    ),
    "a model that is taken from the environment by name": (
        {"SECRET": PLANTED}, HOST + KEY + "OPENAI_MODEL=${SECRET}\n", "", {}, {"OPENAI_BASE_URL"},
    ),
    "an organisation of the environment": ({"OPENAI_ORG_ID": PLANTED}, HOST + KEY, "", {}, {"OPENAI_BASE_URL"}),
    "headers of the environment": ({"OPENAI_CUSTOM_HEADERS": PLANTED}, HOST + KEY, "", {}, {"OPENAI_BASE_URL"}),
    "Azure with its own key": ({}, AZURE, "", {}, set()),
    "Azure with its own key, and a token of the environment": (
        {"AZURE_OPENAI_AD_TOKEN": PLANTED}, AZURE, "", {}, {"AZURE_OPENAI_ENDPOINT"},
    ),
    "a named backend without a key": ({}, "", MISTRAL, {}, set()),
    "a named backend with its own key": ({}, "MISTRAL_API_KEY=own\n", MISTRAL + NAMED_KEY, {}, set()),
    "a named backend whose key is not set": ({}, "", MISTRAL + NAMED_KEY, {}, set()),
    "a named backend with a key of the environment": (
        {"MISTRAL_API_KEY": PLANTED}, "", MISTRAL + NAMED_KEY, {}, {"backends.mistral"},
    ),
    "another key of the environment for the folder's provider": (
        {"SECRET": PLANTED}, HOST + KEY, '[backends.more]\nkind = "chat"\napi_key_env = "SECRET"\n', {}, {"backends.more"},
    ),
    "Anthropic at its own host": ({"ANTHROPIC_API_KEY": PLANTED}, "", CLAUDE, {}, set()),
    "Anthropic at another host": ({"ANTHROPIC_API_KEY": PLANTED}, "", OWN_CLAUDE, {}, {"backends.claude"}),
    "a token of the environment that its SDK sends": (
        {"ANTHROPIC_AUTH_TOKEN": PLANTED}, "ANTHROPIC_API_KEY=own\n", OWN_CLAUDE, {}, {"backends.claude"},
    ),
    "conversations of a database elsewhere": ({"THREADLEDGER_DB": "/elsewhere/x.db"}, HOST + KEY, "", {}, {"OPENAI_BASE_URL"}),
    "conversations of a database elsewhere that the folder names": (
        {}, HOST + KEY + "THREADLEDGER_DB=/elsewhere/x.db\n", "", {}, {"OPENAI_BASE_URL"},
    ),
    "conversations of an address of SQLite": (
        {}, HOST + KEY + "THREADLEDGER_DB=sqlite:///file:/elsewhere/x.db?uri=true\n", "", {}, {"OPENAI_BASE_URL"},
    ),
    "conversations of a database elsewhere, sent without a key": (
        {}, "", MISTRAL, {"db": "/elsewhere/x.db"}, {"backends.mistral"},
    ),
    "conversations of a database in the folder": ({}, HOST + KEY, "", {"db": "sqlite:///own.db"}, set()),
    "conversations of a link to a database elsewhere": ({}, HOST + KEY, "", {"db": "link.db"}, {"OPENAI_BASE_URL"}),
    "a database server with its own password": ({"PGPASSWORD": PLANTED}, f"{POSTGRES}me:own@host.invalid/x\n", "", {}, set()),
    "a database server without a password": ({}, f"{POSTGRES}me@host.invalid/x\n", "", {}, set()),
    "a database server, and a password of the environment": (
        {"PGPASSWORD": PLANTED}, f"{POSTGRES}me@host.invalid/x\n", "", {}, {"THREADLEDGER_DB"},
    ),
    "a database server as a parameter": (
        {"PGPASSFILE": PLANTED}, f"{POSTGRES}me@/x?host=host.invalid\n", "", {}, {"THREADLEDGER_DB"},
    ),
    "a database on the server of the environment": ({"PGPASSWORD": PLANTED, "PGHOST": "h"}, f"{POSTGRES}me@/x\n", "", {}, set()),
    "a password file that the folder names": (
        {}, f"{POSTGRES}me:own@host.invalid/x?passfile=/home/me/.pgpass\n", "", {}, {"THREADLEDGER_DB"},
    ),
    "a database password that is taken from the environment by name": (
        {"SECRET": PLANTED}, POSTGRES + "me:${SECRET}@host.invalid/x\n", "", {}, {"THREADLEDGER_DB"},
    ),
    "a database server of an option": ({"PGPASSWORD": PLANTED}, "", "", {"db": "postgresql+psycopg://host.invalid/x"}, set()),
    "a replica on a server, and a password of the environment": (
        {"PGPASSWORD": PLANTED}, "THREADLEDGER_READ_DB=postgresql+psycopg://me@host.invalid/x\n", "", {},
        {"THREADLEDGER_READ_DB"},
    ),
    "a replica on a server with its own password": (
        {"PGPASSWORD": PLANTED}, "THREADLEDGER_READ_DB=postgresql+psycopg://me:own@host.invalid/x\n", "", {}, set(),
    ),
    "a replica that the environment names": (
        {"PGPASSWORD": PLANTED, "THREADLEDGER_READ_DB": "postgresql+psycopg://me@host.invalid/x"}, "", "", {}, set(),
    ),
    "tools of the folder": ({}, "THREADLEDGER_TOOLS=my_code.py", "", {}, {"THREADLEDGER_TOOLS"}),
    "an installed module that the folder chooses": ({}, "THREADLEDGER_TOOLS=os", "", {}, {"THREADLEDGER_TOOLS"}),
    "tools of the environment by a relative path": ({"THREADLEDGER_TOOLS": "my_code.py"}, "", "", {}, {"THREADLEDGER_TOOLS"}),
    "tools of the environment in a module of the folder": ({"THREADLEDGER_TOOLS": "my_code"}, "", "", {}, {"THREADLEDGER_TOOLS"}),
    "tools of the environment in a link of the folder": ({"THREADLEDGER_TOOLS": "linked"}, "", "", {}, {"THREADLEDGER_TOOLS"}),
    "tools of the environment elsewhere": ({"THREADLEDGER_TOOLS": "/elsewhere/code.py"}, "", "", {}, set()),
    "tools of the environment in an installed module": ({"THREADLEDGER_TOOLS": "json"}, "", "", {}, set()),
    "tools of the environment that the folder's host calls": (
        {"THREADLEDGER_TOOLS": "json"}, HOST + KEY, "", {}, {"THREADLEDGER_TOOLS"},
    ),
    "tools of the environment that the folder's profile chooses": (
        {"THREADLEDGER_TOOLS": "json"}, "THREADLEDGER_PROFILE=john.toml", "", {}, {"THREADLEDGER_TOOLS"},
    ),
    "a function as a backend": ({}, "", FUNCTION, {}, {"backends.local"}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("my_code.py").write_text("def answer(request): ...\ndef look(**given): return 'first'\n")
    Path("linked.py").symlink_to(Path(json.__file__))
    Path("link.db").symlink_to("/elsewhere/x.db")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    load_from({})
    for name in (FILE_MODULE, "my_module"):
        sys.modules.pop(name, None)


def found(**options: Any) -> FolderTrust:
    return FolderTrust(load_settings(**options))


def write(env: str = "", config: str = "") -> None:
    for name, text in ((".env", env), ("threadledger.toml", config)):
        if text:
            Path(name).write_text(text)


@pytest.mark.parametrize(("environment", "env", "config", "options", "needs"), CASES.values(), ids=CASES)
def test_a_host_or_code_needs_trust_if_only_the_folder_names_it(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    env: str,
    config: str,
    options: dict[str, Any],
    needs: set[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    write(env, config)
    trust = found(**options)
    assert {need.setting for need in trust.needs()} == needs
    assert not any(PLANTED in need.reason for need in trust.needs())
    trust.grant()
    assert (found(**options).state, found(**options).is_needed) == ("trusted", False)


@pytest.mark.parametrize(
    ("environment", "env", "needs"),
    [
        ({"THREADLEDGER_CONFIG": "mine.toml"}, "", set[str]()),
        ({}, "THREADLEDGER_CONFIG=mine.toml", {"backends.mistral"}),
    ],
    ids=["by the environment", "by the folder"],
)
def test_a_configuration_file_belongs_to_what_names_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], env: str, needs: set[str]
) -> None:
    for name, value in {**environment, "MISTRAL_API_KEY": PLANTED}.items():
        monkeypatch.setenv(name, value)
    write(env)
    Path("mine.toml").write_text(MISTRAL + NAMED_KEY)
    assert {need.setting for need in found().needs()} == needs


def test_a_password_file_in_the_home_folder_is_a_password_of_the_environment(tmp_path: Path) -> None:
    write(f"{POSTGRES}me@host.invalid/x\n")
    assert found().needs() == ()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".pgpass").write_text("*:*:*:*:secret\n")
    assert [need.setting for need in found().needs()] == ["THREADLEDGER_DB"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([".env", "threadledger.toml", "my_code.py"]),
    line=st.integers(0, 3),
    comment=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=5),
)
def test_any_other_content_of_a_file_is_a_change(name: str, line: int, comment: str) -> None:
    texts = {".env": "THREADLEDGER_TOOLS=my_code.py\n", "threadledger.toml": "retries = 1\n", "my_code.py": "pass\n"}
    for each, text in texts.items():
        Path(each).write_text(f"# 1\n{text}# 2\n")
    found().grant()
    lines = Path(name).read_text().splitlines(keepends=True)
    Path(name).write_text("".join([*lines[:line], f"#{comment}\n", *lines[line:]]))
    with pytest.raises(FolderNotTrusted, match="changed since it was trusted"):
        found().require("code")


def test_what_runs_is_what_was_checked_though_the_file_changes_in_between() -> None:
    write("THREADLEDGER_TOOLS=my_code.py")
    trust = found()
    trust.grant()
    tools = ModuleTools("my_code.py", LOOK, {})
    sources = trust.require("code")
    Path("my_code.py").write_text("def look(**given): return 'exchanged'\n")
    assert tools.load(sources)["look"]() == "first"
    with pytest.raises(FolderNotTrusted, match=r"changed since it was trusted \(my_code\.py\)"):
        found().require("code")


def test_a_key_is_sent_as_it_was_when_it_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", PLANTED)
    write("MISTRAL_API_KEY=own\n", MISTRAL + NAMED_KEY)
    settings = load_settings()
    assert FolderTrust(settings).needs() == ()
    write("MISTRAL_API_KEY=${SECRET}\n")
    assert key_of("MISTRAL_API_KEY", settings) == "own"


def test_a_module_runs_from_what_was_checked_and_not_from_compiled_code_next_to_it() -> None:
    write("THREADLEDGER_TOOLS=my_module")
    Path("my_module.py").write_text("def look(**given): return 'other'\n")
    compiled = py_compile.compile("my_module.py", invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert compiled is not None
    Path("my_module.py").write_text("def look(**given): return 'first'\n")
    trust = found()
    trust.grant()
    load_from(trust.require("code"))
    Path("my_module.py").write_text("def look(**given): return 'exchanged'\n")
    assert load_tools("my_module", LOOK)["look"]() == "first"


def test_a_file_that_appears_in_a_trusted_folder_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    found().grant()
    write(HOST)
    with pytest.raises(FolderNotTrusted, match=r"changed since it was trusted \(\.env\), and OPENAI_BASE_URL"):
        found().require("provider")


def test_every_file_of_a_package_that_an_import_runs_is_recorded(tmp_path: Path) -> None:
    for name in ("inner/__init__.py", "inner/deep/__init__.py", "inner/deep/mine.py", "inner/other.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("")
    write("THREADLEDGER_TOOLS=inner.deep.mine")
    shown = found().shown_files()
    assert shown == [".env", "inner/__init__.py", "inner/deep/__init__.py", "inner/deep/mine.py"]
    assert module_files("inner.nowhere") == module_files("nowhere_at_all") == []


def test_a_record_is_for_its_owner_alone_and_holds_no_text(config_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config_home / "own"))
    write(HOST + KEY)
    found().grant()
    folder = config_home / "own" / "threadledger" / "trust"
    (record,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (record, folder)] == [0o600, 0o700]
    assert json.loads(record.read_text()).keys() == {"folder", "trusted_at", "files"}
    assert revoke(Path.cwd())
    assert not any(folder.iterdir())


def test_a_relative_configuration_folder_is_not_one_of_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    found().grant()
    assert (tmp_path / "home" / ".config" / "threadledger" / "trust").is_dir()
    assert not Path("here").exists()


def test_a_record_that_cannot_be_written_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidSettings, match=r"cannot be recorded .* or set THREADLEDGER_TRUST_DIR"):
        found().grant()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"folder": "/elsewhere", "files": {}}', b"\xff"])
def test_a_damaged_record_is_no_trust(
    config_home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found().grant()
    (record,) = (tmp_path / "config" / "threadledger" / "trust").iterdir()
    record.write_bytes(content)
    assert found().state == "not trusted"


def test_a_file_that_a_command_wrote_is_added_to_what_was_trusted() -> None:
    write(config="retries = 1\n")
    found().grant()
    write(HOST)
    trust_file(Path(".env"), HOST.encode())
    assert found().state == "trusted"
    write(config="retries = 2\n")
    assert found().state == "changed"


def test_the_environment_trusts_folders_and_those_below_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "below")
    monkeypatch.chdir(tmp_path / "below")
    states = {}
    for given_folders in (str(tmp_path), str(tmp_path / "link"), str(tmp_path / "bel"), f"/elsewhere{os.pathsep}/"):
        monkeypatch.setenv("THREADLEDGER_TRUST_DIR", given_folders)
        states[given_folders.removeprefix(str(tmp_path))] = found().state
    assert list(states.values()) == ["trusted", "trusted", "not trusted", "trusted"]


def test_the_folder_cannot_trust_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    write(f"{HOST}THREADLEDGER_TRUST_DIR={tmp_path}\nXDG_CONFIG_HOME={tmp_path}\n")
    assert found().state == "not trusted"


def test_folders_of_the_environment_that_are_not_absolute_paths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for folders in (".", " ", os.pathsep, f"{Path.cwd()}{os.pathsep} "):
        monkeypatch.setenv("THREADLEDGER_TRUST_DIR", folders)
        with pytest.raises(
            InvalidSettings, match=r"THREADLEDGER_TRUST_DIR cannot be used \('.' is not an absolute path\)"
        ):
            assert found().state
