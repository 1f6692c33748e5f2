"""Plant secrets in every input, and check that no output contains them."""

from __future__ import annotations

import base64
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.failures import keep_secret, redact
from threadledger.domain.failures.secret_rules import RULES
from threadledger.domain.ledger import Ledger

AZURE_KEY = "0badc0de0badc0de0badc0de0badc0de"
PASSWORD = "pl4nted-p4ssw0rd"
BASIC = base64.b64encode(b"user:pass").decode()
CORES = {
    "a key": "AAAAplantedAAAA1111",
    "a session": "BBBBplantedBBBB2222",
    "an Azure key": AZURE_KEY,
    "a bearer token": "CCCCplantedCCCC.3333",
    "basic auth": BASIC,
    "a password in an address": PASSWORD,
    "a header's value": "DDDDplantedDDDD4444",
}
"""Parts of the planted secrets that no output may contain."""

KEY = f"sk-proj-{CORES['a key']}"
HEADER = CORES["a header's value"]
SAID = (
    f"Incorrect API key provided: {KEY}. Session sess-{CORES['a session']}; headers {{'api-key': '{AZURE_KEY}', "
    f"'Authorization': 'Bearer {CORES['a bearer token']}'}} at https://user:{PASSWORD}@host.invalid/v1 and "
    f"Authorization: Basic {BASIC} with x-api-key: {HEADER}"
)
"""Error message that contains several secrets."""

RUNS, CHAT, RESPONSES = "POST /threads/{thread_id}/runs", "POST /chat/completions", "POST /responses"

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")


def found_in(text: str) -> list[str]:
    """Return the names of the secrets that a text contains."""
    return [name for name, core in CORES.items() if core in text]


class Broken(Exception):
    """Represent an app's error whose message and cause contain secrets."""


def broken(**arguments: Any) -> str:
    try:
        raise OSError(SAID)
    except OSError as error:
        raise Broken(SAID) from error


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Collect log records in every form that an app's handler could produce."""
    told: list[str] = []

    class Everything(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.extend((logging.Formatter().format(record), repr(vars(record))))

    logger, handler = logging.getLogger("threadledger"), Everything()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield told
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def settings(simulator: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Set a key in the environment and a profile with a function."""
    (tmp_path / "john.toml").write_text('name = "John"\n[[tools]]\nname = "look_up"\n')
    (tmp_path / "tools.py").write_text("def look_up(**given): return 'nothing'\n")
    given = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": simulator.base_url,
        "THREADLEDGER_BACKENDS": "assistants,responses,chat",
        "THREADLEDGER_RETRIES": "0",
        "THREADLEDGER_PROFILE": "john.toml",
        "THREADLEDGER_TOOLS": "tools.py",
        "THREADLEDGER_TRUST_DIR": str(tmp_path),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


FAULTS = {
    "said in the envelope": {"refuse": {"status": 400, "message": SAID, "code": KEY, "type": KEY, "param": KEY}},
    "said as the run's error": {"fail": {"code": "server_error", "message": SAID}},
    "said in a body of no form": {"reply": {"status": 400, "text": json.dumps({"error": SAID, "api_key": KEY})}},
    "said in a list": {"reply": {"status": 500, "text": json.dumps([SAID, {"authorization": SAID}])}},
    "said on a page": {"reply": {"status": 502, "content_type": "text/html", "text": f"<p>{SAID}</p>"}},
    "said with HTTP 200": {"reply": {"content_type": "text/html", "text": f"<p>{SAID}</p>"}},
    "said in headers": {"refuse": {"status": 429, "headers": {"retry-after": KEY, "x-told": SAID}}},
}


@pytest.fixture
def planted(settings: dict[str, str], simulator: Any, logged: list[str]) -> Iterator[Ledger]:
    """Create a ledger with many kinds of failures whose messages contain secrets."""
    import threadledger

    with threadledger.open(tools={"look_up": broken}) as ledger:
        for name, fault in FAULTS.items():
            simulator.clear_faults()
            for place in (RUNS, RESPONSES, CHAT):
                simulator.add_fault(place, times=None, **fault)
            with suppress(AllBackendsFailed):
                ledger.conversation(name).ask("Where is my parcel?")
            with suppress(AllBackendsFailed):
                list(ledger.conversation(f"{name}, streamed").stream("Where is my parcel?"))
        simulator.clear_faults()
        simulator.add_fault("*", times=None, refuse={"status": 503, "message": SAID})
        ledger.conversation("not mirrored").append("user", "Where is my parcel?")
        simulator.clear_faults()
        simulator.answer({"tool_calls": [{"name": "look_up", "arguments": {}}]}, "I do not know.")
        ledger.conversation("tools").ask("Where is my parcel?")
        with suppress(Broken), ledger.conversation("own").run(backend="mine", model="m"):
            broken()
        yield ledger


def test_no_secret_is_in_events_states_views_or_notebooks(planted: Ledger, tmp_path: Path) -> None:
    planted.failures()
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("threadledger.db*")).decode("utf-8", "replace")
    with sqlite3.connect(tmp_path / "threadledger.db") as connection:
        dumped = "\n".join(connection.iterdump())
    connection.close()
    assert len(planted.failures()) > 3 * len(FAULTS)
    assert (found_in(raw), found_in(dumped)) == ([], [])
    assert "[redacted]" in dumped


def test_no_kind_of_secret_in_the_words_of_a_provider_is_stored_logged_or_raised(
    settings: dict[str, str], simulator: Any, logged: list[str], tmp_path: Path
) -> None:
    import threadledger

    raised = []
    with threadledger.open(backends="chat", threads="none") as ledger:
        chat = ledger.conversation("k")
        for rule in RULES:
            simulator.clear_faults()
            said = rule.text.format(rule.secret)
            simulator.add_fault(CHAT, refuse={"status": 400, "message": said, "param": said})
            with pytest.raises(AllBackendsFailed) as refused:
                chat.ask("Where is my parcel?")
            raised.append(f"{refused.value} {refused.value.failures!r}")
    with sqlite3.connect(tmp_path / "threadledger.db") as connection:
        dumped = "\n".join(connection.iterdump())
    connection.close()
    text = "\n".join([dumped, *logged, *raised])
    assert [rule.kind for rule in RULES if rule.secret[-12:] in text] == []
    assert dumped.count("[redacted]") >= len(RULES)


def test_no_secret_is_in_what_an_app_is_told(planted: Ledger, simulator: Any) -> None:
    simulator.add_fault("*", times=None, refuse={"status": 400, "message": SAID})
    with pytest.raises(AllBackendsFailed) as nobody:
        planted.conversation("k").ask("Where is my parcel?")
    told = f"{nobody.value} {nobody.value.failures!r} {[each.as_json() for each in nobody.value.failures]}"
    assert found_in(told + repr(planted.services) + repr(planted.failures())) == []


def test_no_secret_is_in_a_log_line(planted: Ledger, logged: list[str]) -> None:
    assert len(logged) > len(FAULTS)
    assert found_in("\n".join(logged)) == []


def test_no_secret_is_shown_to_a_model(planted: Ledger, simulator: Any) -> None:
    (result,) = [each for each in planted.memory("tools").as_chat_messages() if each["role"] == "tool"]
    assert result["content"].startswith("[the tool failed: Broken: Incorrect API key provided: [redacted]")
    assert found_in(json.dumps([request.body for request in simulator.requests])) == []


COMMANDS = {
    "audit failures": (["audit", "failures"], {0}),
    "audit failures as JSON": (["audit", "failures", "-o", "json"], {0}),
    "audit failures as CSV": (["audit", "failures", "-o", "csv"], {0}),
    "audit groups": (["audit", "groups", "-o", "json"], {0}),
    "audit summary": (["audit", "summary", "-o", "json"], {0}),
    "audit report": (["audit", "report", "--output", "report.html"], {0}),
    "audit show": (["audit", "show", "RUN"], {0}),
    "audit show as JSON": (["audit", "show", "RUN", "-o", "json"], {0}),
    "audit export": (["audit", "export", "RUN", "--output", "exported"], {0, 1}),
    "events": (["events", "-o", "jsonl"], {0}),
    "show": (["show", "tools", "-o", "json"], {0}),
    "show as a timeline": (["show", "tools", "--view", "timeline"], {0}),
    "list": (["list", "-o", "json"], {0}),
    "export": (["export", "--all"], {0}),
    "doctor": (["doctor", "-o", "json"], {0, 4}),
    "doctor as a table": (["doctor"], {0, 4}),
    "doctor --online": (["doctor", "--online", "-o", "json"], {0, 4}),
    "config": (["config", "--origin", "-o", "json"], {0}),
    "db status": (["db", "status", "-o", "json"], {0}),
    "db check": (["db", "check", "-o", "json"], {0}),
    "replay verify": (["replay", "verify", "--all", "-o", "json"], {0, 3, 4}),
    "replay rerun": (["replay", "rerun", "--failed", "-o", "json"], {0}),
    "ask": (["ask", "k", "Where?", "-v"], {1, 3}),
    "ask as JSON lines": (["ask", "k", "Where?", "--log-format", "json"], {1, 3}),
    "ask, streamed": (["ask", "k", "Where?", "--stream"], {1, 3}),
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a command and returns its exit code and its output (stdout and stderr)."""
    from threadledger.cli import main

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(list(arguments))
        told = capsys.readouterr()
        return code, told.out + told.err

    return call


def test_no_secret_is_in_what_any_command_says_or_writes(
    planted: Ledger, run: Callable[..., tuple[int, str]], simulator: Any, tmp_path: Path
) -> None:
    for place in (RUNS, RESPONSES, CHAT, "GET /models", "GET /assistants"):
        simulator.add_fault(place, times=None, refuse={"status": 400, "message": SAID})
    run_id = next(each.run_id for each in planted.failures() if each.backend == "chat")
    for name, (arguments, codes) in COMMANDS.items():
        code, told = run(*(run_id if each == "RUN" else each for each in arguments))
        assert code in codes, (name, code, told)
        assert found_in(told) == [], name
    for path in [tmp_path / "report.html", *(tmp_path / "exported").rglob("*")]:
        if path.is_file():
            assert found_in(path.read_text(encoding="utf-8")) == [], path


def test_the_password_of_the_providers_address_is_nowhere(
    settings: dict[str, str],
    simulator: Any,
    run: Callable[..., tuple[int, str]],
    logged: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = simulator.base_url.replace("http://", f"http://user:{PASSWORD}@")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    simulator.add_fault("*", times=None, refuse={"status": 404, "message": f"Invalid URL (POST {address}/threads)"})
    told = [run("init"), run("ask", "k", "Where?", "-v"), run("show", "k", "-o", "json"), run("doctor", "--online")]
    assert [code for code, _ in told] == [0, 1, 0, 4]
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("threadledger.db*")).decode("utf-8", "replace")
    assert found_in("".join(text for _, text in told) + "".join(logged) + raw) == []


def test_no_secret_is_in_the_traceback_that_debugging_shows(
    planted: Ledger, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "summary", lambda self, *given, **named: broken())
    monkeypatch.setenv("THREADLEDGER_DEBUG", "1")
    code, told = run("audit", "summary")
    assert (code, told.count("Traceback (most recent call last)")) == (1, 2)
    assert "tests/test_secrets.py" in told
    assert found_in(told) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("THREADLEDGER_DB", f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/ledger"),
        ("THREADLEDGER_DB", f"postgresql+psycopg://127.0.0.1:1/ledger?user=u&password={PASSWORD}"),
        ("THREADLEDGER_DB", f"mysql://user:{PASSWORD}@host/ledger"),
        ("THREADLEDGER_DB", KEY),
        ("THREADLEDGER_BACKENDS", KEY),
        ("THREADLEDGER_RETRIES", KEY),
        ("THREADLEDGER_TOOLS", KEY),
        ("THREADLEDGER_PROFILE", KEY),
        ("OPENAI_BASE_URL", f"https://user:{PASSWORD}@127.0.0.1:1/v1?api_key={KEY}"),
        ("OPENAI_API_KEY", f"{KEY}\n"),
        ("OPENAI_API_KEY", f"'{AZURE_KEY}'"),
    ],
)
@pytest.mark.parametrize("command", [("doctor", "--online"), ("config",), ("list",), ("list", "-v"), ("ask", "k", "?")])
def test_no_secret_of_a_setting_that_cannot_be_used_is_told(
    run: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("THREADLEDGER_DEBUG", "1")
    monkeypatch.setattr("threadledger.adapters.sql.connections.UNREACHED_SECONDS", 0.0)  # no server comes
    _, told = run(*command)
    assert found_in(told) == []


class TestAzure:
    @pytest.fixture
    def azure(self, simulator: Any, db_url: str) -> dict[str, Any]:
        return {
            "url": db_url,
            "azure_openai_endpoint": simulator.azure_endpoint,
            "azure_openai_api_key": AZURE_KEY,
            "openai_api_version": "2025-04-01-preview",
            "backends": ("chat",),
            "threads": "none",
            "retries": 0,
        }

    def test_a_key_without_a_form_of_its_own_is_known_by_its_value(
        self, azure: dict[str, Any], simulator: Any, logged: list[str], tmp_path: Path
    ) -> None:
        import threadledger

        message = f"Access denied: {AZURE_KEY} is no subscription key."
        simulator.add_fault(CHAT, refuse={"status": 401, "code": "401", "message": message})
        with threadledger.open(**azure) as ledger:
            with pytest.raises(AllBackendsFailed) as nobody:
                ledger.conversation("k").ask("Where is my parcel?")
            raw = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*")).decode("utf-8", "replace")
        (failure,) = nobody.value.failures
        assert failure.facts.message == "Access denied: [redacted] is no subscription key."
        assert found_in(raw + "\n".join(logged) + str(nobody.value)) == []

    def test_a_token_of_entra_id_too(self, azure: dict[str, Any], simulator: Any) -> None:
        import threadledger

        token = "planted.entra.token"
        simulator.add_fault(CHAT, refuse={"status": 401, "message": f"{token} has run out"})
        with (
            threadledger.open(**azure, azure_openai_ad_token=token) as ledger,
            pytest.raises(AllBackendsFailed) as nobody,
        ):
            ledger.conversation("k").ask("Where is my parcel?")
        assert nobody.value.failures[0].facts.message == "[redacted] has run out"


def test_a_word_that_happens_to_begin_like_a_secret_stays() -> None:
    keep_secret("parcel-of-mine")
    assert redact("the parcel-of-mine, the parcel-of-mines") == "the [redacted], the parcel-of-mines"


def test_what_is_too_short_to_be_a_secret_is_not_looked_for() -> None:
    keep_secret("test")
    assert redact("a test") == "a test"


def test_the_planted_user_and_password_look_like_plain_letters() -> None:
    assert BASIC.isalpha()
