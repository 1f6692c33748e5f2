"""One line a run, with what the audit says of it and without a word that was said; as text or JSON, and never a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from threadledger.adapters import JsonFormatter
from threadledger.domain.conversation import RunPlan
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.failures import Failure, Redacting
from threadledger.domain.failures.redaction import LOGGERS
from threadledger.domain.ledger import Ledger

CHAT, RESPONSES = "POST /chat/completions", "POST /responses"
ONE = {"backends": ("chat",), "threads": "none", "retries": 0}
TWO = {"backends": ("responses", "chat"), "threads": "none", "retries": 1}
KEY = "sk-planted-0123456789abcdef"


class Kept(logging.Handler):
    """Keeps records as an app's handler gets them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The fields of the lines of runs."""
        standard = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
        lines = [vars(record) for record in self.records if record.name == "threadledger.runs"]
        return [{name: value for name, value in line.items() if name not in standard} for line in lines]


@pytest.fixture
def kept() -> Iterator[Kept]:
    logger, handler = logging.getLogger("threadledger"), Kept()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


class TestALineARun:
    def test_a_run_that_answered_is_told_at_its_end(self, open_ledger: Callable[..., Ledger], kept: Kept) -> None:
        answer = open_ledger(**ONE).conversation("k").ask("Where is my parcel?")
        (line,) = kept.runs
        assert line.pop("duration_seconds") > 0
        assert line.pop("request_id").startswith("req_")
        assert line.pop("remote_run_id").startswith("chatcmpl-")
        assert line.pop("usage")["output_tokens"] > 0
        assert line == {
            **{"run_id": answer.run_id, "key": "k", "exchange_id": answer.exchange_id},
            **{"backend": "chat", "model": "gpt-5.5", "attempt": 1, "status": "completed"},
        }
        assert [record.levelname for record in kept.records] == ["INFO"]

    def test_a_run_that_failed_is_a_warning_with_what_the_audit_says(
        self, open_ledger: Callable[..., Ledger], simulator: Any, kept: Kept
    ) -> None:
        refusal = {"status": 429, "code": "rate_limit_exceeded", "type": "tokens", "message": "Slow down."}
        simulator.add_fault(CHAT, refuse=refusal)
        ledger = open_ledger(**ONE)
        with pytest.raises(AllBackendsFailed):
            ledger.conversation("k").ask("Where is my parcel?")
        (line,), (failure,) = kept.runs, ledger.failures()
        told = failure.as_json()
        assert line == {name: told[name] for name in line}
        assert (line["cause"], line["code"], line["type"]) == ("rate_limited", "rate_limit_exceeded", "tokens")
        assert [record.levelname for record in kept.records] == ["WARNING"]
        assert kept.records[0].getMessage() == (
            f"run {failure.run_id} on chat (gpt-5.5, attempt 1) failed: rate_limited "
            f"(HTTP 429: rate_limit_exceeded, request {line['request_id']})"
        )

    def test_every_attempt_and_every_backend_has_its_own(
        self, open_ledger: Callable[..., Ledger], simulator: Any, kept: Kept
    ) -> None:
        simulator.add_fault(RESPONSES, fail=True, times=2)
        open_ledger(**TWO).conversation("k").ask("Where is my parcel?")
        assert [(line["backend"], line["attempt"], line["status"]) for line in kept.runs] == [
            ("responses", 1, "failed"),
            ("responses", 2, "failed"),
            ("chat", 1, "completed"),
        ]

    def test_an_apps_own_run_has_one(self, open_ledger: Callable[..., Ledger], kept: Kept) -> None:
        chat = open_ledger(**ONE).conversation("k")
        chat.append("user", "Where is my parcel?")
        with pytest.raises(TimeoutError), chat.run(backend="my-llm", model="llama"):
            raise TimeoutError("too slow")
        with chat.run(backend="my-llm", model="llama") as run:
            run.complete("On its way.")
        assert [(line["backend"], line.get("cause"), line["status"]) for line in kept.runs] == [
            ("my-llm", "timed_out", "error"),
            ("my-llm", None, "completed"),
        ]

    def test_a_call_of_a_recorded_client_has_one(
        self, open_ledger: Callable[..., Ledger], simulator: Any, kept: Kept
    ) -> None:
        from openai import OpenAI

        import threadledger

        client = OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0)
        with threadledger.record(client, open_ledger(**ONE), "k") as recorded:
            recorded.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello?"}])
        assert [(line["model"], line["status"]) for line in kept.runs] == [("m", "completed")]

    def test_a_run_that_a_crash_left_open_has_one_from_whoever_closes_it(
        self, open_ledger: Callable[..., Ledger], kept: Kept
    ) -> None:
        plan = RunPlan("chat", "m", timeout_seconds=-3_600.0)
        before = open_ledger(**ONE)
        run_id = before.journal.commit("k", lambda it: it.start_run("x", plan), create=True)
        assert kept.runs == []
        open_ledger(**ONE).close_overdue_runs()  # a process that knows nothing of the run's start
        before.close_overdue_runs()
        (line,) = kept.runs
        assert (line["run_id"], line["model"], line["cause"]) == (run_id, "m", "interrupted")

    def test_a_rerun_has_one(self, open_ledger: Callable[..., Ledger], simulator: Any, kept: Kept) -> None:
        simulator.add_fault(CHAT, fail=True)
        ledger = open_ledger(**ONE)
        with pytest.raises(AllBackendsFailed):
            ledger.conversation("k").ask("Where is my parcel?")
        ledger.replay.plan_rerun(failed=True).apply()
        assert [line["status"] for line in kept.runs] == ["error", "completed"]

    def test_awaited_the_same(self, open_ledger: Callable[..., Ledger], simulator: Any, kept: Kept) -> None:
        from threadledger.domain.ledger import AsyncLedger

        simulator.add_fault(RESPONSES, fail=True, times=2)

        async def talk() -> None:
            async with AsyncLedger(open_ledger(**TWO)) as ledger:
                await ledger.conversation("k").ask("Where is my parcel?")

        asyncio.run(talk())
        assert [line["status"] for line in kept.runs] == ["failed", "failed", "completed"]

    def test_nothing_is_told_of_what_was_not_stored(self, open_ledger: Callable[..., Ledger], kept: Kept) -> None:
        def decide(conversation: Any) -> None:
            conversation.fail_run(conversation.start_run("x", RunPlan("chat", "m")), Failure("failed"))
            raise LookupError("changed its mind")

        with pytest.raises(LookupError):
            open_ledger(**ONE).journal.commit("k", decide, create=True)
        assert kept.records == []


class TestText:
    def said(self, open_ledger: Callable[..., Ledger], simulator: Any, **settings: Any) -> None:
        simulator.answer("The answer's words.")
        simulator.add_fault(RESPONSES, refuse={"status": 400, "message": "You said: the question's words"})
        open_ledger(**TWO, **settings).conversation("k").ask("The question's words.")

    def test_nothing_that_was_said_is_logged(
        self, open_ledger: Callable[..., Ledger], simulator: Any, kept: Kept
    ) -> None:
        self.said(open_ledger, simulator)
        lines = [JsonFormatter().format(record) for record in kept.records]
        assert len(lines) == 2
        assert not [line for line in lines if "words" in line]

    def test_unless_it_is_asked_for(self, open_ledger: Callable[..., Ledger], simulator: Any, kept: Kept) -> None:
        self.said(open_ledger, simulator, log_text=True)
        texts = [(line["question"], line["answer"], line["provider_message"]) for line in kept.runs]
        assert texts == [
            ("The question's words.", None, "You said: the question's words"),
            ("The question's words.", "The answer's words.", None),
        ]


class Broken:
    """An observer that raises."""

    def run_started(self, run: Any) -> None:
        raise RuntimeError(f"no room for {KEY}")

    run_ended = exchange_ended = run_started


class TestObservers:
    def test_one_that_fails_breaks_no_run_and_keeps_no_other_from_being_told(
        self, db_url: str, simulator: Any, kept: Kept
    ) -> None:
        import threadledger

        seen = Seen()
        given = {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url} | ONE
        with threadledger.open(db_url, observer=Broken(), **given) as ledger:
            ledger.journal.watch.observers += (seen,)
            assert ledger.conversation("k").ask("hello").text == "You said: hello"
        assert seen.told == ["started", "ended", "exchange"]
        errors = [record for record in kept.records if record.levelname == "ERROR"]
        assert {record.getMessage() for record in errors} == {"Broken failed to handle a run; the run is not affected"}
        assert all(record.exc_text and KEY not in record.exc_text and not record.exc_info for record in errors)

    def test_it_is_told_which_run_took_over_and_when_an_exchange_ends(self, db_url: str, simulator: Any) -> None:
        import threadledger

        seen = Seen()
        simulator.add_fault(RESPONSES, fail=True, times=2)
        given = {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url} | TWO
        with threadledger.open(db_url, observer=seen, **given) as ledger:
            answer = ledger.conversation("k").ask("hello")
        assert [run.took_over_from for run in seen.runs] == [None, None, seen.runs[1].run_id]
        assert [end.answered_by for end in seen.ends] == [answer.run_id]


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.runs: list[Any] = []
        self.ends: list[Any] = []

    def run_started(self, run: Any) -> None:
        self.told.append("started")
        self.runs.append(run)

    def run_ended(self, end: Any) -> None:
        self.told.append("ended")

    def exchange_ended(self, end: Any) -> None:
        self.told.append("exchange")
        self.ends.append(end)


class TestJson:
    def line(self, *arguments: Any, exc_info: Any = None, **fields: Any) -> dict[str, Any]:
        record = logging.getLogger("some.app").makeRecord(
            "some.app", logging.WARNING, "app.py", 1, arguments[0], arguments[1:], exc_info, extra=fields
        )
        line: dict[str, Any] = json.loads(JsonFormatter().format(record))
        return line

    def test_a_line_is_an_object_with_time_level_logger_message_and_the_fields(self) -> None:
        line = self.line("%s of %d", "one", 2, run_id="r", attempt=1)
        assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
        assert line == {
            **{"level": "warning", "logger": "some.app", "message": "one of 2"},
            **{"run_id": "r", "attempt": 1},
        }

    def test_a_traceback_is_one_of_its_values(self) -> None:
        try:
            raise LookupError(f"no {KEY}")
        except LookupError as error:
            line = self.line("it broke", exc_info=(type(error), error, error.__traceback__))
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("LookupError: no [redacted]")

    def test_a_field_cannot_take_the_place_of_the_lines_own(self) -> None:
        assert self.line("told", level="none", logger="other")["level"] == "warning"

    def test_a_message_that_does_not_take_its_arguments_is_told_all_the_same(self) -> None:
        assert self.line("%d", "one")["message"] == "%d ('one',)"

    def test_the_record_itself_is_left_as_it_was_for_other_handlers(self) -> None:
        record = logging.makeLogRecord({"msg": "%s", "args": ("one",), "exc_info": None})
        JsonFormatter().format(record)
        assert (record.msg, record.args) == ("%s", ("one",))


class TestRedaction:
    @pytest.mark.parametrize("name", LOGGERS)
    def test_no_record_of_ours_carries_a_secret_to_any_handler(self, name: str, kept: Kept) -> None:
        try:
            raise OSError(f"https://user:p4ssw0rd@host/ refused {KEY}")
        except OSError:
            logging.getLogger(name).exception(
                "%s: Bearer abcdef0123456789", KEY, extra={"api_key": "plain", "told": [KEY], "count": 3}
            )
        (record,) = kept.records
        whole = repr(vars(record)) + logging.Formatter().format(record)
        assert not re.search(r"planted|p4ssw0rd|abcdef0123456789|'plain'", whole)
        assert (record.getMessage(), vars(record)["count"]) == ("[redacted]: Bearer [redacted]", 3)
        assert "OSError: https://user:[redacted]@host/ refused [redacted]" in str(record.exc_text)

    def test_every_logger_that_is_used_is_one_of_those_with_the_filter(self) -> None:
        used: set[str] = set()
        for layer in ("domain", "adapters", "cli"):
            for path in Path(import_module(f"threadledger.{layer}").__path__[0]).rglob("*.py"):
                used |= set(re.findall(r'getLogger\("([^"]+)"\)', path.read_text(encoding="utf-8")))
        assert used == set(LOGGERS)

    def test_an_apps_own_handler_may_have_the_filter_too(self) -> None:
        record = logging.makeLogRecord({"msg": f"key {KEY}", "stack_info": f"at {KEY}"})
        assert Redacting().filter(record)
        assert KEY not in repr(vars(record))


class TestTheCommandLine:
    @pytest.fixture
    def ask(self, simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., list[str]]:
        from threadledger.cli import main

        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
        main(["init"])
        simulator.add_fault(RESPONSES, fail=True)

        def call(*options: str) -> list[str]:
            capsys.readouterr()
            assert main(["ask", "k", "hello", *options]) == 0
            err: str = capsys.readouterr().err
            return err.splitlines()

        return call

    def statuses(self, lines: list[str]) -> list[str]:
        return [json.loads(line)["status"] for line in lines if line.startswith("{") and '"run_id"' in line]

    def test_log_lines_are_json_where_that_is_asked_for(self, ask: Callable[..., list[str]]) -> None:
        assert self.statuses(ask("--log-format", "json")) == ["failed", "completed"]

    def test_the_setting_asks_for_it_too(self, ask: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THREADLEDGER_LOG_FORMAT", "json")
        assert self.statuses(ask()) == ["failed", "completed"]

    def test_the_option_wins_over_the_setting(
        self, ask: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("THREADLEDGER_LOG_FORMAT", "json")
        assert not [line for line in ask("--log-format", "text") if line.startswith("{")]

    def test_as_text_they_are_told_with_v(self, ask: Callable[..., list[str]]) -> None:
        told = [line.split(" ")[0] for line in ask("-v") if " run " in line]
        assert told == ["WARNING", "INFO"]

    def test_without_either_the_command_says_what_there_is_to_say(self, ask: Callable[..., list[str]]) -> None:
        assert not [line for line in ask() if line.startswith(("WARNING", "INFO", "{"))]
