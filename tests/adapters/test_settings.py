"""Settings: option over environment over `.env` over default; one clear sentence for what cannot be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from threadledger.adapters import client_of, load_settings, open_ledger, origins
from threadledger.domain.conversation import Profile
from threadledger.domain.errors import FileMissing, InvalidProfile, InvalidSettings

DOTENV = Path(".env")  # every test runs in an empty folder
SECRET = "sk-proj-0123456789abcdef"


def test_without_anything_the_defaults_of_the_contract_hold():
    settings = load_settings()
    assert settings.db == "sqlite:///threadledger.db"
    assert settings.order == ("responses", "chat")
    assert settings.threads == "conversations"
    assert (settings.retries, settings.timeout_seconds) == (2, 60)
    assert settings.openai_api_key is None
    assert (settings.deadline_seconds, settings.while_running) == (300, "reject")
    assert (settings.stateless, settings.background, settings.tools) == (False, False, None)
    assert (settings.azure_openai_endpoint, settings.openai_api_version) == (None, None)
    assert settings.load_profile() == Profile()


def test_option_wins_over_environment_wins_over_dotenv_wins_over_default(monkeypatch):
    seen = [load_settings().retries]
    DOTENV.write_text("THREADLEDGER_RETRIES=5\n")
    seen.append(load_settings().retries)
    monkeypatch.setenv("THREADLEDGER_RETRIES", "7")
    seen.append(load_settings().retries)
    seen.append(load_settings(retries=9).retries)
    seen.append(load_settings(retries=None).retries)
    assert seen == [2, 5, 7, 9, 7]


NAMES = {
    "THREADLEDGER_DB": ("db", "sqlite:///x.db", "sqlite:///x.db"),
    "OPENAI_BASE_URL": ("openai_base_url", "http://x/v1", "http://x/v1"),
    "OPENAI_ORG_ID": ("openai_org_id", "org-1", "org-1"),
    "OPENAI_PROJECT_ID": ("openai_project_id", "proj_1", "proj_1"),
    "THREADLEDGER_BACKENDS": ("backends", "chat, assistants", ("chat", "assistants")),
    "OPENAI_ASSISTANT_ID": ("openai_assistant_id", "asst_1", "asst_1"),
    "THREADLEDGER_THREADS": ("threads", "assistants", "assistants"),
    "THREADLEDGER_PROFILE": ("profile", "p.toml", Path("p.toml")),
    "OPENAI_MODEL": ("openai_model", "m", "m"),
    "THREADLEDGER_FALLBACK_MODEL": ("fallback_model", "f", "f"),
    "THREADLEDGER_RETRIES": ("retries", "0", 0),
    "THREADLEDGER_TIMEOUT_SECONDS": ("timeout_seconds", "0.5", 0.5),
    "OPENAI_API_VERSION": ("openai_api_version", "2026-01-01", "2026-01-01"),
    "THREADLEDGER_DEADLINE_SECONDS": ("deadline_seconds", "12.5", 12.5),
    "THREADLEDGER_WHILE_RUNNING": ("while_running", "queue", "queue"),
    "THREADLEDGER_STATELESS": ("stateless", "true", True),
    "THREADLEDGER_BACKGROUND": ("background", "1", True),
    "THREADLEDGER_TOOLS": ("tools", "my.tools", "my.tools"),
    "THREADLEDGER_FALLBACK": ("fallback", "strict", "strict"),
    "THREADLEDGER_STREAM_FALLBACK": ("stream_fallback", "continue", "continue"),
    "THREADLEDGER_THREADS_BACKEND": ("threads_backend", "responses", "responses"),
}


@pytest.mark.parametrize("place", ["environment", ".env"])
@pytest.mark.parametrize("name", NAMES)
def test_every_setting_of_the_contract_is_read_under_its_name(monkeypatch, place, name):
    field, given, expected = NAMES[name]
    if place == "environment":
        monkeypatch.setenv(name, given)
    else:
        DOTENV.write_text(f'{name}="{given}"\n')
    settings = load_settings()
    assert getattr(settings, field) == expected
    assert origins(settings)[name] == place


def test_an_option_is_named_as_the_origin_also_where_the_environment_has_the_setting(monkeypatch):
    monkeypatch.setenv("THREADLEDGER_RETRIES", "7")
    DOTENV.write_text("THREADLEDGER_TIMEOUT_SECONDS=5\n")
    found = origins(load_settings(retries=9, timeout_seconds=1.0))
    assert (found["THREADLEDGER_RETRIES"], found["THREADLEDGER_TIMEOUT_SECONDS"]) == ("option", "option")
    assert found["THREADLEDGER_DB"] == "default"


def test_an_empty_value_is_no_value(monkeypatch):
    monkeypatch.setenv("THREADLEDGER_RETRIES", "")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert load_settings().retries == 2
    assert load_settings().openai_api_key is None


FOREIGN = {"DB": "mysql://h/d", "THREADS": "none", "BACKENDS": "chat", "RETRIES": "8", "PROFILE": "release",
           "MEMORY_LAST": "8", "TIMEOUT_SECONDS": "8", "TOOLS": "8", "STATELESS": "1", "BACKGROUND": "1",
           "FALLBACK": "strict", "STREAM_FALLBACK": "continue", "CONFIG": "/etc/other.toml", "THREADS_BACKEND": "x",
           "WHILE_RUNNING": "queue", "DEADLINE_SECONDS": "8", "AZURE_ENDPOINT": "x"}  # fmt: skip


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_keys_of_other_programs_are_ignored(monkeypatch, place):
    foreign = FOREIGN | {"DATABASE_URL": "postgres://u:p@h/d", "AWS_SECRET": "x", "OPENAI_NEW": "y"}
    if place == "environment":
        for name, value in foreign.items():
            monkeypatch.setenv(name, value)
    else:
        DOTENV.write_text("".join(f"{name}={value}\n" for name, value in foreign.items()))
    settings = load_settings()
    assert settings.db == "sqlite:///threadledger.db"
    assert (settings.threads, settings.order, settings.retries) == ("conversations", ("responses", "chat"), 2)
    assert (settings.profile, settings.memory_last, settings.timeout_seconds) == (None, None, 60)
    assert (settings.tools, settings.stateless, settings.background) == (None, False, False)
    assert (settings.while_running, settings.deadline_seconds) == ("reject", 300)
    assert (settings.fallback, settings.stream_fallback, settings.threads_backend) == ("drop", "restart", None)


BAD = {
    "THREADLEDGER_RETRIES": ["many", "-1", "1.5", "21"],
    "THREADLEDGER_TIMEOUT_SECONDS": ["soon", "0", "-5", "nan", "inf", "999999"],
    "THREADLEDGER_THREADS": ["postgres"],
    "THREADLEDGER_BACKENDS": ["responses,gpt", ",", " ", ",,", " , "],
    "USE_ASSISTANTS_API": ["perhaps"],
    "THREADLEDGER_DEADLINE_SECONDS": ["soon", "0", "-1", "nan", "inf", "86401"],
    "THREADLEDGER_WHILE_RUNNING": ["wait"],
    "THREADLEDGER_STATELESS": ["perhaps"],
    "THREADLEDGER_BACKGROUND": ["perhaps"],
    "THREADLEDGER_FALLBACK": ["perhaps"],
    "THREADLEDGER_STREAM_FALLBACK": ["perhaps"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_in_one_sentence_that_names_the_setting(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    said = str(refused.value)
    assert said.startswith(f"{name} cannot be used (")
    assert "\n" not in said
    assert "pydantic" not in said.lower()


def test_a_bad_option_is_named_like_the_setting_it_stands_for():
    with pytest.raises(InvalidSettings, match=r"^THREADLEDGER_RETRIES cannot be used"):
        load_settings(retries="many")


@pytest.mark.parametrize("backends", [("gpt",), ["gpt"], "gpt"])
def test_a_backend_that_does_not_exist_is_refused_however_it_is_given(backends):
    with pytest.raises(InvalidSettings, match=r"'gpt'.*assistants, responses, chat"):
        load_settings(backends=backends)


def test_a_key_of_the_configuration_that_is_given_twice_is_refused():
    Path("threadledger.toml").write_text("retries = 1\nretries = 2\n")
    with pytest.raises(InvalidSettings, match=r"^threadledger\.toml is not TOML"):
        load_settings()


@pytest.mark.parametrize("backends", [(), [], ",", " ", ""])
def test_a_chain_without_a_backend_is_refused_wherever_it_is_given(backends):
    with pytest.raises(InvalidSettings, match=r"^THREADLEDGER_BACKENDS cannot be used .*at least one name"):
        load_settings(backends=backends)
    value = f'"{backends}"' if isinstance(backends, str) and backends else "[]"
    Path("threadledger.toml").write_text(f"chain = {value}\n")
    with pytest.raises(InvalidSettings, match=r"^threadledger\.toml: chain "):
        load_settings()


def test_a_dotenv_that_is_not_text_is_refused_in_one_sentence():
    DOTENV.write_bytes(b"THREADLEDGER_RETRIES=\xff\xfe\n")
    with pytest.raises(InvalidSettings, match="UTF-8"):
        load_settings()


# USE_ASSISTANTS_API


@pytest.mark.parametrize(
    ("use", "backends", "order"),
    [
        (None, "responses,chat", ("responses", "chat")),
        (None, "assistants,chat", ("assistants", "chat")),
        ("true", "responses,chat", ("assistants", "responses", "chat")),
        ("1", "chat,assistants", ("assistants", "chat")),
        ("false", "assistants,chat", ("chat",)),
        ("0", "responses,chat", ("responses", "chat")),
        (None, "chat,chat,responses,chat", ("chat", "responses")),
    ],
)
def test_use_assistants_api_puts_assistants_first_or_takes_them_out(monkeypatch, use, backends, order):
    monkeypatch.setenv("THREADLEDGER_BACKENDS", backends)
    if use is not None:
        monkeypatch.setenv("USE_ASSISTANTS_API", use)
    assert load_settings().order == order


def test_the_first_backend_takes_openai_model_and_chat_as_fallback_a_model_of_its_own():
    settings = load_settings(openai_model="m", fallback_model="f")
    assert settings.model_for("responses", Profile(model="p")) == "m"
    assert settings.model_for("chat", Profile(model="p")) == "f"
    alone = load_settings(openai_model="m", fallback_model="f", backends=("chat",))
    assert alone.model_for("chat", Profile()) == "m"
    assert load_settings().model_for("responses", Profile(model="p")) == "p"
    assert load_settings(openai_model="m").model_for("chat", Profile()) == "m"


# Profiles


def test_the_profile_in_profiles_john_is_taken_where_it_is_there():
    Path("profiles").mkdir()
    Path("profiles/john.toml").write_text('name = "John"\ninstructions = "Be brief."\n', encoding="utf-8")
    assert load_settings().load_profile() == Profile("John", "Be brief.")


def test_the_profile_of_the_repository_can_be_read():
    path = Path(__file__).parents[2] / "profiles" / "john.toml"
    profile = load_settings(profile=path).load_profile()
    assert profile.name == "John"
    assert [tool["function"]["name"] for tool in profile.tools] == ["web_search", "web_open"]


PROFILES = {
    "not TOML": ('name = "', InvalidProfile),
    "a field given twice": ("name = 'x'\nname = 'y'", InvalidProfile),
    "a key given twice in a tool": ("tools = [{type = 'x', type = 'y'}]", InvalidProfile),
    "not UTF-8": (b'name = "\xff"', InvalidProfile),
    "an unknown field": ("nam = 'x'", InvalidProfile),
    "a field of another type": ("name = 1", InvalidProfile),
    "instructions of another type": ("instructions = ['x']", InvalidProfile),
    "tools that are no list": ("tools = 'x'", InvalidProfile),
    "a tool without a name": ("[[tools]]\ndescription = 'x'", InvalidProfile),
    "a tool that is text": ("tools = ['web_search']", InvalidProfile),
    "a date in a tool": ("[[tools]]\ntype = 'x'\nsince = 2020-01-01", InvalidProfile),
}


@pytest.mark.parametrize(("text", "error"), PROFILES.values(), ids=PROFILES)
def test_a_profile_that_cannot_be_used_is_refused_in_one_sentence_that_names_the_file(text, error):
    Path("mine.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=r"mine\.toml") as refused:
        load_settings(profile=Path("mine.toml")).load_profile()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("path", ["nowhere.toml", "."])
def test_a_profile_that_was_named_and_is_not_there_is_missing(path):
    with pytest.raises(FileMissing, match="THREADLEDGER_PROFILE"):
        load_settings(profile=Path(path)).load_profile()


def test_a_bad_profile_makes_no_database():
    Path("mine.toml").write_text("name = 1")
    with pytest.raises(InvalidProfile):
        open_ledger(load_settings(profile=Path("mine.toml")))
    assert not Path("threadledger.db").exists()


# Azure

AZURE = {
    "AZURE_OPENAI_ENDPOINT": "https://a.example",
    "AZURE_OPENAI_API_KEY": SECRET,
    "OPENAI_API_VERSION": "2026-01-01",
}


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_where_azures_endpoint_is_set_azure_is_asked_with_its_own_key(monkeypatch, place):
    if place == "environment":
        for name, value in AZURE.items():
            monkeypatch.setenv(name, value)
    else:
        DOTENV.write_text("".join(f"{name}={value}\n" for name, value in AZURE.items()))
    client = client_of(load_settings(openai_api_key="sk-of-openai"))
    assert (client.azure_endpoint, client.api_key, client.api_version) == ("https://a.example", SECRET, "2026-01-01")
    assert client.endpoint == "https://a.example/openai"


def test_azure_is_never_shown_the_key_of_openai():
    given = {"azure_openai_endpoint": "https://a.example", "openai_api_version": "2026-01-01"}
    assert not client_of(load_settings(openai_api_key=SECRET, **given)).has_credentials
    assert client_of(load_settings(azure_openai_ad_token="t", **given)).azure_ad_token == "t"


def test_azures_key_and_token_without_its_endpoint_are_another_programs():
    client = client_of(load_settings(azure_openai_api_key=SECRET, azure_openai_ad_token="t"))
    assert not client.has_credentials


def test_two_providers_at_once_are_refused(monkeypatch):
    for name, value in (AZURE | {"OPENAI_BASE_URL": "http://x/v1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match="AZURE_OPENAI_ENDPOINT and OPENAI_BASE_URL name two providers"):
        load_settings()


def test_an_option_that_names_a_provider_wins_over_another_one_in_the_environment(monkeypatch):
    for name, value in AZURE.items():
        monkeypatch.setenv(name, value)
    assert client_of(load_settings(openai_base_url="http://x/v1")).endpoint == "http://x/v1"
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://x/v1")
    assert client_of(load_settings(azure_openai_endpoint="https://b.example")).endpoint == "https://b.example/openai"


def test_azure_without_a_version_of_its_api_is_refused():
    with pytest.raises(InvalidSettings, match="OPENAI_API_VERSION is not"):
        load_settings(azure_openai_endpoint="https://a.example")


# Secrets


@pytest.mark.parametrize("field", ["azure_openai_api_key", "azure_openai_ad_token"])
def test_azures_key_and_token_show_nowhere(field):
    given = {field: SECRET, "azure_openai_endpoint": "https://a.example", "openai_api_version": "2026-01-01"}
    settings = load_settings(**given)
    shown = [
        repr(settings),
        str(settings),
        repr(client_of(settings)),
        str(vars(settings)),
        str(origins(settings)),
    ]
    assert all(SECRET not in text for text in shown)


def test_the_key_shows_nowhere(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    settings = load_settings()
    client = client_of(settings)
    shown = [repr(settings), str(settings), repr(client), str(vars(settings)), str(origins(settings))]
    assert all("0123456789" not in text for text in shown)
    assert client.api_key == SECRET


def test_the_key_is_not_in_the_error_about_another_setting(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("THREADLEDGER_RETRIES", "many")
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


def test_without_a_key_a_message_is_journaled_and_nobody_is_called():
    with open_ledger(load_settings()) as ledger:
        ledger.conversation("k").append("user", "hello")
        assert [each.message.text for each in ledger.memory("k").messages] == ["hello"]
        assert ledger.state("k").links == {}


def test_the_processs_environment_does_not_change_how_events_are_stored(monkeypatch):
    for name in ("PERSISTENCE_MODULE", "CIPHER_TOPIC", "COMPRESSOR_TOPIC", "CIPHER_KEY", "THREADLEDGER_CIPHER_KEY"):
        monkeypatch.setenv(name, "eventsourcing.nowhere:Nothing")
    with open_ledger(load_settings()) as ledger:
        ledger.conversation("k").append("user", "hello")
        assert [each.message.text for each in ledger.memory("k").messages] == ["hello"]


def test_an_app_that_takes_warnings_for_errors_can_use_the_assistants_api_and_its_tools(simulator):
    Path("tools.toml").write_text("[[tools]]\nname = 'look'\n")
    script = (
        "from pathlib import Path\n"
        "from threadledger.adapters import load_settings, open_ledger\n"
        "settings = load_settings(backends=('assistants',), threads='assistants', retries=0, profile=Path('tools.toml'))\n"
        "with open_ledger(settings, tools={'look': lambda: 'a cat'}) as ledger:\n"
        "    print(ledger.conversation('k').ask('hello').text)\n"
    )
    simulator.answer({"tool_calls": [{"name": "look"}]}, "A cat.")
    environment = os.environ | {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": simulator.base_url}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("A cat.\n", 0), done.stderr[-2000:]
