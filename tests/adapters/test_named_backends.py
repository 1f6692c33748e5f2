"""`threadledger.toml`: one more place for settings, and the backends that an app names."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.adapters import Settings, load_settings, named_backends, origins
from threadledger.adapters.anthropic import AnthropicClient
from threadledger.adapters.costs import price_of_run
from threadledger.adapters.named_backends import RESERVED, Endpoints, NamedBackend, key_of, read_config
from threadledger.adapters.prices import price
from threadledger.adapters.wiring import client_of
from threadledger.domain.conversation import Profile
from threadledger.domain.conversation.messages import Usage
from threadledger.domain.errors import FileMissing, InvalidSettings
from threadledger.domain.exchange import Services

FILE = Path("threadledger.toml")  # every test runs in an empty folder
SECRET = "sk-proj-0123456789abcdef"
MISTRAL = """
[backends.mistral]
kind = "chat"
base_url = "https://api.mistral.example/v1"
api_key_env = "MISTRAL_API_KEY"
model = "mistral-small"
timeout_seconds = 30
retries = 1
extra = { temperature = 0.2 }
"""


def test_option_environment_dotenv_and_file_win_over_each_other_in_this_order(monkeypatch):
    FILE.write_text("retries = 3\ntimeout_seconds = 7.5\nthreads = 'none'\n")
    seen = [load_settings().retries]
    Path(".env").write_text("THREADLEDGER_RETRIES=5\n")
    seen.append(load_settings().retries)
    monkeypatch.setenv("THREADLEDGER_RETRIES", "7")
    seen.append(load_settings().retries)
    settings = load_settings(retries=9)
    seen.append(settings.retries)
    assert seen == [3, 5, 7, 9]
    assert (settings.timeout_seconds, settings.threads) == (7.5, "none")
    found = origins(settings)
    assert (found["THREADLEDGER_RETRIES"], found["THREADLEDGER_TIMEOUT_SECONDS"]) == ("option", "threadledger.toml")
    assert found["THREADLEDGER_DB"] == "default"


@pytest.mark.parametrize("place", ["option", "environment", ".env"])
def test_the_file_may_have_another_name(monkeypatch, place):
    Path("other.toml").write_text("retries = 4\n")
    FILE.write_text("retries = 3\n")
    if place == "environment":
        monkeypatch.setenv("THREADLEDGER_CONFIG", "other.toml")
    elif place == ".env":
        Path(".env").write_text("THREADLEDGER_CONFIG=other.toml\n")
    settings = load_settings(**({"config": Path("other.toml")} if place == "option" else {}))
    assert (settings.retries, origins(settings)["THREADLEDGER_RETRIES"]) == (4, "other.toml")


def test_a_file_that_was_named_and_is_not_there_is_missing(monkeypatch):
    monkeypatch.setenv("THREADLEDGER_CONFIG", "nowhere.toml")
    with pytest.raises(FileMissing, match=r"nowhere\.toml cannot be read .*THREADLEDGER_CONFIG"):
        load_settings()


def test_a_table_names_a_backend_with_limits_of_its_own():
    FILE.write_text(f'chain = ["responses", "mistral"]\n{MISTRAL}')
    settings = load_settings(fallback_model="f", openai_model="m")
    assert settings.order == ("responses", "mistral")
    assert settings.named["mistral"] == NamedBackend(
        "mistral",
        "chat",
        "https://api.mistral.example/v1",
        "MISTRAL_API_KEY",
        "mistral-small",
        30,
        1,
        {"temperature": 0.2},
    )
    assert settings.model_for("mistral", Profile()) == "mistral-small"
    assert load_settings(backends="mistral,chat").order == ("mistral", "chat")
    assert load_settings(use_assistants_api=True).order == ("assistants", "responses", "mistral")


def test_a_backend_without_a_model_takes_that_of_its_kind():
    FILE.write_text('[backends.second]\nkind = "chat"\n[backends.mine]\nkind = "python"\nfunction = "a.b:c"\n')
    settings = load_settings(fallback_model="f", openai_model="m", backends=("responses", "second", "mine"))
    assert [settings.model_for(name, Profile()) for name in settings.order] == ["m", "f", "a.b:c"]


REFUSED = {
    "not TOML": ("retries =", r"threadledger\.toml is not TOML"),
    "unknown key": (
        "retires = 1",
        r"unknown key 'retires': use \[backends\.NAME\], \[serve\], \[schedules\], or one or more of .*retries",
    ),
    "key of a setting": (f'openai_api_key = "{SECRET}"', r"holds a key \(openai_api_key\): set it in the environment"),
    "another file": ('config = "x.toml"', "unknown key 'config'"),
    "bad value": ("retries = 'many'", r"threadledger\.toml: retries cannot be used \("),
    "list of backends": ('backends = ["chat"]', r"chain = \[\"responses\", \"chat\"\]"),
    "chain as text": ('chain = "chat"', "chain is not a list of names"),
    "unknown in chain": ('chain = ["gpt"]', r"threadledger\.toml: chain cannot be used \(there is no backend 'gpt'"),
    "no table": ("[backends]\nmistral = 1", r"\[backends\.mistral\] is not a table"),
    "name": ('[backends."a,b"]\nkind = "chat"', "'a,b' is not a valid name of a backend"),
    "unknown key in table": (
        '[backends.m]\nkind = "chat"\nmodle = "x"',
        r"\[backends\.m\] has an unknown key 'modle': use one or more of kind, base_url",
    ),
    "key in table": (
        f'[backends.m]\nkind = "chat"\napi_key = "{SECRET}"',
        r"\[backends\.m\] has the key 'api_key', and no secret belongs in this file.*api_key_env",
    ),
    "no kind": ('[backends.m]\nmodel = "x"', r"\[backends\.m\] has no kind: set it to one of assistants, responses"),
    "unknown kind": ('[backends.m]\nkind = "gemini"', r"\[backends\.m\]: kind cannot be used: give one of "),
    "kind of a built-in name": (
        '[backends.chat]\nkind = "python"\nfunction = "a:b"',
        "built in, and its kind is 'chat'",
    ),
    "python without function": ('[backends.m]\nkind = "python"', r"kind 'python', which needs function"),
    "function of another kind": ('[backends.m]\nkind = "chat"\nfunction = "a:b"', "which does not take function"),
    "address of a function": (
        '[backends.m]\nkind = "python"\nfunction = "a:b"\nbase_url = "https://x"',
        "is a function, which takes no base_url",
    ),
    "no model of another provider": (
        '[backends.claude]\nkind = "anthropic"',
        r"\[backends\.claude\] is of kind anthropic and has no model: add model = ",
    ),
    "boolean for a number": (
        "retries = true",
        r"threadledger\.toml: retries cannot be used \(Input should be a number",
    ),
    "threads at a function": (
        'threads_backend = "m"\n[backends.m]\nkind = "python"\nfunction = "a:b"',
        "THREADLEDGER_THREADS_BACKEND names 'm', which is no backend with threads",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence_that_names_it(text, message):
    FILE.write_text(text)
    with pytest.raises(InvalidSettings, match=message) as refused:
        load_settings()
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


BAD_VALUES = {
    "base_url": [
        "ftp://host",
        "host/v1",
        "",
        1,
        "https://user:sk-secret@host/v1",
        "http://[x",
        "https://host/v1?key=sk-secret",
    ],
    "api_key_env": [SECRET, "", 1, "lower_case"],
    "model": ["", " ", 1],
    "timeout_seconds": [0, -1, 3601, "60", True, float("inf"), float("nan")],
    "retries": [-1, 21, 1.5, "2", True],
    "extra": ["x", {"model": "x"}, {"api_key": SECRET}, {"extra_headers": {}}, {"provider": {"api_key": SECRET}}],
    "function": ["answer", "a:", ":b", "a:b c", 1],
}


def written(value):
    """Return a value in TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {written(inner)}" for key, inner in value.items()) + " }"
    return {True: "true"}.get(value, str(value)) if not isinstance(value, str) else f'"{value}"'


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD_VALUES.items() for value in values])
def test_a_bad_value_in_a_table_is_refused_and_never_shown(key, value):
    kind = "python" if key == "function" else "chat"
    FILE.write_text(f'[backends.m]\nkind = "{kind}"\n{key} = {written(value)}\n')
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    said = str(refused.value)
    assert said.startswith(f"threadledger.toml: [backends.m]: {key} cannot be used: give ")
    assert SECRET not in said
    assert "sk-secret" not in said


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_extra_parameters_cannot_replace_what_a_run_sets(name):
    FILE.write_text(f'[backends.m]\nkind = "chat"\nextra = {{ {name} = "x" }}\n')
    with pytest.raises(InvalidSettings, match=f"without '{name}'"):
        load_settings()


@given(st.text(max_size=60) | st.builds("[backends.{!r}]\n{}".format, st.text(max_size=9), st.text(max_size=20)))
def test_any_text_is_read_or_refused_in_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        read_config(path, {"retries": False})
    except InvalidSettings as refused:
        assert str(refused).startswith(str(path))
        assert "\n" not in str(refused)


def test_a_file_that_is_not_text_is_refused():
    FILE.write_bytes(b"retries = \xff")
    with pytest.raises(InvalidSettings, match="is not TOML"):
        load_settings()


def test_a_schema_that_describes_a_password_holds_no_secret():
    FILE.write_text('[backends.m]\nkind = "chat"\nextra = { schema = { password = { type = "string" } } }\n')
    assert load_settings().named["m"].extra == {"schema": {"password": {"type": "string"}}}


def test_a_byte_order_mark_at_the_start_of_the_file_is_no_fault():
    FILE.write_text("retries = 4\n", encoding="utf-8-sig")
    assert load_settings().retries == 4


BUILT_IN_TABLES = """
chain = ["responses", "chat", "mine"]
timeout_seconds = 9
[backends.responses]
model = "table"
retries = 1
timeout_seconds = 5
base_url = "https://table.example/v1"
api_key_env = "TABLE_KEY"
[backends.chat]
model = "table"
[backends.mine]
kind = "chat"
model = "table"
retries = 1
base_url = "https://table.example/v1"
"""
OTHER_SOURCES = {
    "openai_model": ("m", {"model": None}),
    "retries": (0, {"retries": None}),
    "openai_base_url": ("https://other.example/v1", {"base_url": None, "api_key_env": None}),
    "deadline_seconds": (50, {}),
}


@pytest.mark.parametrize("place", ["option", "environment", ".env"])
@pytest.mark.parametrize("key", OTHER_SOURCES)
def test_other_sources_win_over_the_table_of_a_built_in_backend_only(monkeypatch, key, place):
    FILE.write_text(BUILT_IN_TABLES)
    in_file = load_settings()
    assert in_file.named["responses"].timeout_seconds == 5  # the table is more specific than the rest of the file
    value, left_out = OTHER_SOURCES[key]
    name = Settings.fields[key].name
    if place == "environment":
        monkeypatch.setenv(name, str(value))
    elif place == ".env":
        Path(".env").write_text(f"{name}={value}\n")
    settings = load_settings(**({key: value} if place == "option" else {}))
    assert settings.named["responses"] == replace(in_file.named["responses"], **left_out)
    assert [settings.named[each] for each in ("chat", "mine")] == [in_file.named[each] for each in ("chat", "mine")]


def test_the_fallback_model_wins_over_the_table_of_chat_as_a_fallback():
    FILE.write_text(BUILT_IN_TABLES)
    settings = load_settings(fallback_model="f")
    assert [settings.model_for(name, Profile()) for name in settings.order] == ["table", "f", "table"]


def test_a_key_that_ends_with_a_line_break_is_used_without_it(monkeypatch):
    monkeypatch.setenv("OWN_KEY", "sk-own\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-home\n")
    key = load_settings().openai_api_key
    assert (key_of("OWN_KEY", load_settings()), key.get_secret_value()) == ("sk-own", "sk-home")


# Clients: which key goes where


def endpoints(text, **options):
    FILE.write_text(text)
    settings = load_settings(openai_api_key="sk-home", openai_org_id="org-home", **options)
    return Endpoints(settings, client_of(settings))


def test_the_key_of_an_endpoint_comes_from_the_environment_or_dotenv(monkeypatch):
    assert key_of("MISTRAL_API_KEY", load_settings()) is None
    Path(".env").write_text("MISTRAL_API_KEY=sk-file\n")
    assert key_of("MISTRAL_API_KEY", load_settings()) == "sk-file"
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-environment")
    assert key_of("MISTRAL_API_KEY", load_settings()) == "sk-environment"
    client = endpoints(MISTRAL).client("mistral")
    assert (client.api_key, client.organization, client.timeout_seconds) == ("sk-environment", None, 30)


PLACES = {
    "nothing of its own": ("", ("sk-home", "https://api.openai.com/v1", "org-home", True)),
    "a time limit": ("timeout_seconds = 5", ("sk-home", "https://api.openai.com/v1", "org-home", True)),
    "the same address": (
        'base_url = "https://api.openai.com/v1/"',
        ("sk-home", "https://api.openai.com/v1", "org-home", True),
    ),
    "another key": ('api_key_env = "OWN_KEY"', ("sk-own", "https://api.openai.com/v1", None, False)),
    "another address": ('base_url = "http://localhost:8000/v1"', ("no-key", "http://localhost:8000/v1", None, False)),
    "both": (
        'base_url = "http://localhost:8000/v1"\napi_key_env = "OWN_KEY"',
        ("sk-own", "http://localhost:8000/v1", None, False),
    ),
    "both, not set": (
        'base_url = "http://localhost:8000/v1"\napi_key_env = "UNSET_KEY"',
        (None, "http://localhost:8000/v1", None, False),
    ),
}


@pytest.mark.parametrize(("text", "expected"), PLACES.values(), ids=PLACES)
def test_a_backend_has_the_key_of_its_own_endpoint_only(monkeypatch, text, expected):
    monkeypatch.setenv("OWN_KEY", "sk-own")
    made = endpoints(f'[backends.responses]\n{text}\n[backends.second]\nkind = "responses"\n{text}\n')
    for name in ("responses", "second"):
        client, options = made.client(name), made.options(name)
        assert (client.api_key, client.endpoint, client.organization, options.is_home) == expected
        assert options.endpoint == client.endpoint
    assert made.answers_in_threads("responses") is expected[3]
    assert not made.answers_in_threads("second")  # stateless, unless threads live there
    assert made.client("chat") is made.home


def test_on_azure_another_key_stays_at_the_same_resource(monkeypatch):
    monkeypatch.setenv("OWN_KEY", "sk-own")
    azure = {"azure_openai_endpoint": "https://a.example", "openai_api_version": "2026-01-01"}
    text = '[backends.second]\nkind = "chat"\napi_key_env = "OWN_KEY"\n'
    made = endpoints(text, azure_openai_ad_token="token", **azure).client("second")
    assert (made.endpoint, made.api_key, made.azure_ad_token) == ("https://a.example/openai", "sk-own", None)


def test_the_library_of_a_kind_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(named_backends, "find_spec", lambda name: None)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    made = endpoints('chain = ["claude"]\n[backends.claude]\nkind = "anthropic"\nmodel = "m"\n')
    claude = load_settings().named["claude"]
    assert (named_backends.problem_of_backend(claude, load_settings()) or ())[
        1
    ] == "pip install 'threadledger[anthropic]'"
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert made.client("claude") == AnthropicClient(None, "https://api.anthropic.com")


def test_costs_are_computed_with_the_prices_of_the_endpoint():
    text = """
[backends.mistral]
kind = "chat"
base_url = "https://api.mistral.ai/v1"
[backends.private]
kind = "chat"
base_url = "http://localhost:8000/v1"
[backends.mine]
kind = "python"
function = "a:b"
[backends.second]
kind = "chat"
"""
    prices = endpoints(text).prices()
    assert prices.keys() == {"mistral", "private", "mine"}
    services = Services(price=price, price_at=prices)
    dear = services.cost("mistral", "mistral-large-latest", 1_000_000, 1_000_000)
    assert dear is not None
    assert dear > 0
    assert services.cost("private", "gpt-4o", 1_000_000, 1_000_000) is None
    assert services.cost("mine", "gpt-4o", 1_000_000, 1_000_000) is None
    assert services.cost("second", "gpt-4o", 1_000_000, 0) == price("gpt-4o", 1_000_000, 0) == 2.5
    settings, used, at = load_settings(openai_api_key="sk-home"), Usage(1_000_000, 1_000_000), datetime.now(UTC)
    assert price_of_run(settings, "mistral", "mistral-large-latest", used, at) == dear
    assert price_of_run(settings, "private", "gpt-4o", used, at) is None
    assert price_of_run(settings, "second", "gpt-4o", Usage(1_000_000, 0), at) == 2.5
    assert price_of_run(settings, "chat", "gpt-4o", Usage(1_000_000, 0, 1_000_000), at) == 1.25
