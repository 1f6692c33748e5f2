"""`doctor` says what is wrong, why, and what mends it; whatever is broken, it says so in its own words."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

CHECKS = [
    *("settings", "trust", "address", "key", "backends", "threads", "time"),
    *("database", "runs", "unanswered", "lagging", "jobs", "workers", "cooling", "views", "profile"),
]
PROFILE = """name = "John"
instructions = "You are John."

[[tools]]
name = "web_search"
description = "Search the web."
"""


def findings(done: Any) -> dict[str, dict[str, Any]]:
    """The findings of `doctor -o json`, by check."""
    return {row["check"]: row for row in done.json if row["state"] == "finding"}


@pytest.fixture
def ledger(provider: Any, command: Command) -> Any:
    """A ledger in good health, open beside the command."""
    import threadledger

    assert command("init").code == 0
    with threadledger.open() as opened:
        yield opened


def fail_runs(ledger: Any, times: int, backend: str = "chat", code: str = "server_error") -> None:
    """Exchanges that nobody answered, each in a conversation of its own."""
    from threadledger.domain.conversation import RunPlan
    from threadledger.domain.failures import Failure
    from threadledger.domain.ids import new_id

    def begin(conversation: Any) -> str:
        return str(conversation.start_run("x", RunPlan(backend, "m")))

    def give_up(conversation: Any, run_id: str) -> None:
        conversation.fail_run(run_id, Failure("failed", code=code), 1.0)
        conversation.abandon("x", "nobody answered")

    for _ in range(times):
        key = new_id()
        run_id = ledger.journal.commit(key, begin, create=True)
        ledger.journal.commit(key, lambda it, run_id=run_id: give_up(it, run_id))


def leave_a_run_open(ledger: Any, seconds: float) -> str:
    """A run that nobody ends, with so much time for its attempt."""
    from threadledger.domain.conversation import RunPlan

    plan = RunPlan("chat", "m", timeout_seconds=seconds)
    return str(ledger.journal.commit("left open", lambda it: it.start_run("x", plan), create=True))


class TestAllIsWell:
    def test_it_exits_0_and_says_so(self, command: Command, ledger: Any) -> None:
        done = command("doctor")
        assert (done.code, done.err) == (0, "no problems found\n")

    def test_every_check_is_told_with_the_promised_keys(self, command: Command, ledger: Any) -> None:
        rows = command("doctor", "-o", "json").json
        assert [row["check"] for row in rows] == CHECKS
        assert {tuple(row) for row in rows} == {("check", "state", "message", "mend")}
        assert {(row["state"], row["mend"]) for row in rows} == {("ok", None)}

    def test_the_other_formats_tell_the_same(self, command: Command, ledger: Any) -> None:
        rows = command("doctor", "-o", "json").json
        assert [json.loads(line) for line in command("doctor", "-o", "jsonl").out.splitlines()] == rows
        assert len(command("doctor", "-o", "csv").out.splitlines()) == len(rows) + 1

    def test_nothing_is_written_and_nobody_is_called(self, command: Command, ledger: Any, provider: Any) -> None:
        before = ledger.status()["events"]
        command("doctor")
        assert (ledger.status()["events"], list(provider.requests)) == (before, [])


@pytest.mark.parametrize(
    ("settings", "check", "told", "mend"),
    [
        ({"OPENAI_API_KEY": ""}, "key", "OPENAI_API_KEY is not set", "set OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "sk-planted\nsecret-key"}, "key", "a line break", "to the key and nothing else"),
        ({"OPENAI_API_KEY": "'sk-planted-secret-key'"}, "key", "a quotation mark", "to the key and nothing else"),
        (
            {"OPENAI_BASE_URL": "localhost:8080/v1"},
            "address",
            "not a valid HTTP address",
            "to an address like https://",
        ),
        ({"OPENAI_BASE_URL": "http://[::1/v1"}, "address", "not a valid HTTP address", "to an address like https://"),
        (
            {"USE_ASSISTANTS_API": "false", "THREADLEDGER_BACKENDS": "assistants"},
            "backends",
            "names no backend except assistants, which USE_ASSISTANTS_API=false removes",
            "set THREADLEDGER_BACKENDS=responses,chat",
        ),
        (
            {"THREADLEDGER_BACKENDS": ","},
            "settings",
            "THREADLEDGER_BACKENDS cannot be used (Input should have at least one name)",
            "threadledger config",
        ),
        (
            {"USE_ASSISTANTS_API": "true", "OPENAI_BASE_URL": ""},
            "backends",
            "USE_ASSISTANTS_API is true, but OpenAI shut down its Assistants API on 2026-08-26",
            "set USE_ASSISTANTS_API=false",
        ),
        (
            {"OPENAI_BASE_URL": "https://eu.api.openai.com/v1"},
            "backends",
            "THREADLEDGER_BACKENDS contains assistants, but OpenAI shut",
            "set USE_ASSISTANTS_API=false",
        ),
        ({"OPENAI_BASE_URL": ""}, "threads", "OpenAI shut down its threads", "threadledger replay rebuild --all --to"),
        (
            {"OPENAI_ASSISTANT_ID": "asst_1", "THREADLEDGER_BACKENDS": "chat"},
            "backends",
            "OPENAI_ASSISTANT_ID is set, but assistants is not among the backends",
            "unset OPENAI_ASSISTANT_ID",
        ),
        (
            {"THREADLEDGER_TIMEOUT_SECONDS": "60", "THREADLEDGER_DEADLINE_SECONDS": "30"},
            "time",
            "one attempt may take 60 seconds, a whole exchange only 30",
            "raise THREADLEDGER_DEADLINE_SECONDS",
        ),
        ({"THREADLEDGER_RETRIES": "many"}, "settings", "THREADLEDGER_RETRIES cannot be used", "threadledger config"),
        ({"THREADLEDGER_DB": "mysql://x"}, "settings", "databases of kind 'mysql'", "threadledger config"),
        ({"THREADLEDGER_DB": "sqlite:///other.db"}, "database", "there is no database at", "threadledger init"),
        ({"THREADLEDGER_PROFILE": "gone.toml"}, "profile", "gone.toml cannot be read", "THREADLEDGER_PROFILE"),
    ],
)
def test_a_setting_that_lacks_or_contradicts_another_is_a_finding(
    command: Command,
    ledger: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    check: str,
    told: str,
    mend: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    done = command("doctor", "-o", "json")
    found = findings(done)
    assert done.code == 4
    assert told in found[check]["message"]
    assert mend in found[check]["mend"]
    assert "planted" not in done.out + done.err


def test_a_finding_says_where_the_settings_that_it_names_come_from(
    command: Command, ledger: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    (tmp_path / ".env").write_text("USE_ASSISTANTS_API=true\n")
    found = findings(command("doctor", "-o", "json"))
    assert found["backends"]["message"].endswith("(USE_ASSISTANTS_API from .env)")
    assert found["threads"]["message"].endswith("(THREADLEDGER_THREADS from environment)")


def test_a_server_that_still_speaks_the_assistants_api_is_no_finding(
    command: Command, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USE_ASSISTANTS_API", "true")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com.example.org/v1")
    assert command("doctor").code == 0


class TestTheDatabase:
    def test_a_file_that_is_no_database_is_a_finding(self, command: Command, provider: Any, tmp_path: Path) -> None:
        (tmp_path / "threadledger.db").write_bytes(b"no database at all " * 100)
        done = command("doctor", "-o", "json")
        assert (done.code, list(findings(done))) == (4, ["database"])

    def test_another_programs_database_is_a_finding_and_not_touched(
        self, command: Command, provider: Any, tmp_path: Path
    ) -> None:
        with sqlite3.connect(tmp_path / "threadledger.db") as other:
            other.execute("CREATE TABLE users (name TEXT)")
        other.close()
        before = (tmp_path / "threadledger.db").read_bytes()
        done = command("doctor", "-o", "json")
        assert (done.code, "--db" in findings(done)["database"]["mend"]) == (4, True)
        assert (tmp_path / "threadledger.db").read_bytes() == before

    def test_an_event_that_a_view_could_not_take_in_is_a_finding(self, command: Command, ledger: Any) -> None:
        from threadledger.domain.conversation import stream_of
        from threadledger.domain.ids import new_id, now, to_iso
        from threadledger.domain.journal import StoredRow

        payload = b'{"run_id": "x", "exchange_id": 5, "attempt": 1, "backend": "chat", "model": "m"}'
        row = StoredRow(stream_of("bad"), 1, "RunStarted", payload, new_id(), to_iso(now()))
        ledger.journal.recorder.insert_events([row])
        found = findings(command("doctor", "-o", "json"))
        assert "audit could not process 1 event" in found["views"]["message"]
        assert "threadledger db rebuild-views audit" in found["views"]["mend"]

    def test_a_check_that_breaks_is_a_finding_and_stops_no_other(
        self, command: Command, ledger: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from threadledger.domain.errors import CorruptEvent
        from threadledger.domain.ledger import Ledger

        def broken(self: Ledger) -> None:
            raise CorruptEvent("event 7 cannot be read")

        monkeypatch.setattr(Ledger, "health", broken)
        done = command("doctor", "-o", "json")
        assert [row["check"] for row in done.json] == CHECKS
        assert findings(done)["cooling"]["message"] == "event 7 cannot be read"
        assert findings(done)["cooling"]["mend"] == "threadledger db check"

    def test_a_setting_that_nobody_foresaw_is_a_finding_too(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / ".env").write_bytes(b"THREADLEDGER_DB=\xff\xfe")
        done = command("doctor", "-o", "json")
        assert (done.code, list(findings(done))) == (4, ["settings"])


class TestRuns:
    def test_a_run_left_open_past_its_deadline_is_closed_as_interrupted_and_said_so(
        self, command: Command, ledger: Any
    ) -> None:
        run_id = leave_a_run_open(ledger, seconds=-3_600.0)
        done = command("doctor", "-o", "json")
        assert done.code == 4
        assert findings(done)["runs"]["message"] == (
            f"1 run left open by a crash past the deadline: now closed as interrupted ({run_id[-8:]})"
        )
        assert ledger.run(run_id)[0].failure.status == "interrupted"
        assert "runs" not in findings(command("doctor", "-o", "json"))

    def test_a_run_that_still_has_time_is_left_alone(self, command: Command, ledger: Any) -> None:
        run_id = leave_a_run_open(ledger, seconds=3_600.0)
        done = command("doctor", "-o", "json")
        told = {row["check"]: row["message"] for row in done.json}["runs"]
        assert (done.code, ledger.run(run_id)[0].state) == (0, "open")
        assert told.startswith(f"1 run open ({run_id[-8:]}); the earliest deadline is 20")

    def test_exchanges_that_nobody_answered_are_counted(self, command: Command, ledger: Any) -> None:
        fail_runs(ledger, 2)
        found = findings(command("doctor", "-o", "json"))["unanswered"]
        assert found["message"] == "2 exchanges of 2 conversations without an answer: every backend failed"
        assert "threadledger replay rerun --failed" in found["mend"]

    def test_an_exchange_that_somebody_is_still_at_is_not_counted(self, command: Command, ledger: Any) -> None:
        from threadledger.domain.failures import Failure

        run_id = leave_a_run_open(ledger, seconds=60)
        ledger.journal.commit("left open", lambda it: it.fail_run(run_id, Failure("failed"), 1.0))
        assert command("doctor").code == 0

    def test_an_exchange_that_was_answered_in_the_end_is_not_counted(self, command: Command, provider: Any) -> None:
        provider.add_fault("POST /threads/{thread_id}/runs", fail={}, times=1)
        assert command("ask", "k", "When?").code == 0
        assert command("doctor").code == 0


class TestThreads:
    def unreachable(self, provider: Any, code: int = 503) -> None:
        provider.add_fault("*", refuse={"status": code}, times=None)

    def test_a_conversation_whose_thread_was_never_made_is_a_finding(
        self, command: Command, ledger: Any, provider: Any
    ) -> None:
        self.unreachable(provider)
        command("append", "k", "user", "Where is my parcel?")
        found = findings(command("doctor", "-o", "json"))["lagging"]
        assert found["message"] == "1 conversation with 1 message has no thread yet ('k')"
        assert found["mend"].startswith("threadledger replay rebuild KEY --apply")

    def test_a_thread_that_lags_behind_is_a_finding_until_the_provider_is_back(
        self, command: Command, ledger: Any, provider: Any
    ) -> None:
        command("append", "k", "user", "Where is my parcel?")
        assert command("doctor").code == 0
        self.unreachable(provider)
        command("append", "k", "user", "It was to come yesterday.")
        found = findings(command("doctor", "-o", "json"))["lagging"]
        assert found["message"] == "1 thread: a process stopped in the middle of a write ('k')"
        assert "threadledger replay reconcile --all --apply" in found["mend"]
        provider.clear_faults()
        command("append", "k", "user", "Hello?")
        assert command("doctor").code == 0

    def test_what_was_journaled_without_a_key_is_behind_in_the_thread(
        self, command: Command, ledger: Any, provider: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command("append", "k", "user", "Where is my parcel?")
        with monkeypatch.context() as without:
            without.setenv("OPENAI_API_KEY", "")
            for text in ("Hello?", "Anybody?"):
                command("append", "k", "user", text)
        found = findings(command("doctor", "-o", "json"))["lagging"]
        assert found["message"] == "1 thread lags behind by 2 messages ('k')"

    def test_a_thread_that_the_provider_lost_is_a_finding(self, command: Command, ledger: Any, provider: Any) -> None:
        command("append", "k", "user", "Where is my parcel?")
        thread_id = ledger.state("k").links["assistants"].thread_id
        ledger.journal.commit("k", lambda it: it.lose_thread("assistants", thread_id, "provider_gone"))
        assert (
            findings(command("doctor", "-o", "json"))["lagging"]["message"] == "1 thread of the provider is gone ('k')"
        )

    def test_a_thread_that_is_too_long_is_rebuilt_by_a_command(
        self, command: Command, ledger: Any, provider: Any
    ) -> None:
        command("append", "k", "user", "Where is my parcel?")
        thread_id = ledger.state("k").links["assistants"].thread_id
        ledger.journal.commit("k", lambda it: it.lose_thread("assistants", thread_id, "context_too_long", 60))
        found = findings(command("doctor", "-o", "json"))["lagging"]
        assert found["message"] == "1 thread is too long for the model and no longer used ('k')"
        assert found["mend"] == "write a new one with: threadledger replay rebuild KEY --fresh --apply"

    def test_a_thread_that_somebody_is_writing_to_is_left_alone(
        self, command: Command, ledger: Any, provider: Any
    ) -> None:
        command("append", "k", "user", "Where is my parcel?")
        thread_id = ledger.state("k").links["assistants"].thread_id
        claim = {"held_until": "2999-01-01T00:00:00.000000Z", "settled": 0, "version": 0, "holder": "somebody"}
        changes = ", ".join(f"{name} = '{value}'" for name, value in claim.items())
        with sqlite3.connect("threadledger.db") as notebook:
            notebook.execute(f"UPDATE mirror_heads SET {changes} WHERE thread_id = ?", (thread_id,))
        notebook.close()
        done = command("doctor", "-o", "json")
        assert done.code == 0
        assert "being written to: 'k' by another process until 2999-01-01T00:00:00Z" in done.out

    def test_a_large_ledger_is_looked_at_where_it_changed_last_and_where_the_notebook_is_unsettled(
        self, command: Command, ledger: Any, provider: Any
    ) -> None:
        from threadledger.domain.ledger import threads_behind

        for key in ("old", "older", "new"):
            command("append", key, "user", "Where is my parcel?")
        with sqlite3.connect("threadledger.db") as notebook:
            notebook.execute("UPDATE mirror_heads SET settled = 0 WHERE stream = 'conversation:old'")
        notebook.close()
        lags = threads_behind(ledger.journal, ledger.services, checked_max=1)
        assert [(each.key, each.state) for each in lags.threads] == [("old", "unsettled")]
        assert (lags.checked, lags.of) == (1, 3)


class TestJobs:
    def job(self, ledger: Any, ended: list[dict[str, Any]]) -> str:
        from threadledger.domain.replay.jobs import Jobs

        jobs = Jobs(ledger.journal)
        started = jobs.start("rebuild", {}, [{"key": f"k{number}", "version": 1} for number in range(3)])
        if ended:
            jobs.end_items(started.job_id, ended)
        return str(started.job_id)

    def test_one_that_was_stopped_is_a_finding_with_the_command_that_goes_on(
        self, command: Command, ledger: Any
    ) -> None:
        job_id = self.job(ledger, [{"item": 0, "state": "done"}])
        found = findings(command("doctor", "-o", "json"))["jobs"]
        assert found["message"] == f"rebuild job {job_id[-8:]} is stopped: 2 of 3 items left"
        assert found["mend"] == f"threadledger replay resume {job_id[-8:]}"

    def test_one_of_which_items_failed_is_a_finding_too(self, command: Command, ledger: Any) -> None:
        states = ("done", "failed", "skipped")
        job_id = self.job(ledger, [{"item": number, "state": state} for number, state in enumerate(states)])
        found = findings(command("doctor", "-o", "json"))["jobs"]
        assert found["message"] == f"rebuild job {job_id[-8:]} is done: 1 item failed"

    def test_one_that_ended_well_is_none(self, command: Command, ledger: Any) -> None:
        self.job(ledger, [{"item": number, "state": "done"} for number in range(3)])
        assert command("doctor").code == 0

    def test_many_are_counted(self, command: Command, ledger: Any) -> None:
        for _ in range(5):
            self.job(ledger, [])
        rows = [row for row in command("doctor", "-o", "json").json if row["check"] == "jobs"]
        assert len(rows) == 4
        assert rows[-1]["message"] == "2 more jobs stopped or with failed items"


class TestBackends:
    def test_one_that_cools_down_is_told_with_its_cause_and_what_to_do(self, command: Command, ledger: Any) -> None:
        from threadledger.domain import limits
        from threadledger.domain.failures import Cause, advise

        fail_runs(ledger, limits.BREAKER_FAILURES, "responses", "insufficient_quota")
        fail_runs(ledger, limits.BREAKER_FAILURES - 1, "chat")
        found = [row for row in command("doctor", "-o", "json").json if row["check"] == "cooling"]
        assert len(found) == 1
        assert found[0]["message"].startswith("responses is skipped until 20")
        assert found[0]["message"].endswith(
            "UTC while another backend is available: 5 failures in a row, most recently quota_exhausted"
        )
        assert found[0]["mend"] == advise(Cause.QUOTA_EXHAUSTED)

    def test_what_to_do_names_no_run_that_one_would_have_to_look_for(self, command: Command, ledger: Any) -> None:
        from threadledger.domain import limits

        fail_runs(ledger, limits.BREAKER_FAILURES)
        mend = findings(command("doctor", "-o", "json"))["cooling"]["mend"]
        assert mend.endswith("threadledger replay rerun --failed --apply.")


class TestTheProfile:
    def test_functions_that_nobody_can_run_are_a_finding(
        self, command: Command, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "john.toml").write_text(PROFILE)
        monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
        found = findings(command("doctor", "-o", "json"))["profile"]
        assert "the profile declares web_search, but no function is bound here" in found["message"]
        assert "THREADLEDGER_TOOLS" in found["mend"]

    def test_functions_of_the_module_that_is_set_can_be_run(
        self, command: Command, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "john.toml").write_text(PROFILE)
        (tmp_path / "tools.py").write_text("def web_search(**wanted): return 'nothing'")
        monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
        monkeypatch.setenv("THREADLEDGER_TOOLS", "tools.py")
        monkeypatch.setenv("THREADLEDGER_TRUST_DIR", str(tmp_path))
        assert command("doctor").code == 0

    @pytest.mark.parametrize("source", ["def web_search(:", "web_search = 1 if", "def other(): ..."])
    def test_a_module_of_functions_that_cannot_be_used_is_a_finding(
        self, command: Command, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        (tmp_path / "john.toml").write_text(PROFILE)
        (tmp_path / "tools.py").write_text(source)
        monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
        monkeypatch.setenv("THREADLEDGER_TOOLS", "tools.py")
        monkeypatch.setenv("THREADLEDGER_TRUST_DIR", str(tmp_path))
        done = command("doctor", "-o", "json")
        assert (done.code, list(findings(done))) == (4, ["profile"])
        assert "THREADLEDGER_TOOLS: tools.py" in findings(done)["profile"]["message"]

    def test_functions_are_looked_up_and_not_imported_whether_the_folder_is_trusted_or_not(
        self, command: Command, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "john.toml").write_text(PROFILE)
        (tmp_path / "tools.py").write_text("raise SystemExit(3)\ndef web_search(**wanted): ...")
        monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
        monkeypatch.setenv("THREADLEDGER_TOOLS", "tools.py")
        assert list(findings(command("doctor", "-o", "json"))) == ["trust"]
        assert command("trust").code == 0
        assert list(findings(command("doctor", "-o", "json"))) == []

    def test_what_a_backend_would_refuse_is_a_finding_before_anybody_asks(
        self, command: Command, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "john.toml").write_text('name = "John"\ntools = [{ type = "web_search" }]')
        monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
        told = [row["message"] for row in command("doctor", "-o", "json").json if row["check"] == "profile"]
        assert told[0] == "as a fallback, chat answers without tool:web_search"
        assert [each.split(" ")[0] for each in told[1:]] == ["assistants"]

    @pytest.mark.parametrize(
        ("tool", "told"),
        [
            ('name = "web search"', "'web search' is not a valid function name"),
            (f'name = "{"a" * 65}"', "use 1 to 64 letters, digits, underscores or dashes"),
            (
                'name = "a"\nparameters = { type = "string" }',
                "parameters of 'a': the schema is not an object with prop",
            ),
            ('name = "a"\nparameters = { type = "object" }', 'use {"type": "object", "properties": {…}}'),
            (
                'name = "a"\nparameters = { type = "object", properties = { n = { type = "text" } } }',
                "n has the type 'text', which is not a JSON type",
            ),
            (
                'name = "a"\nparameters = { type = "object", properties = {}, required = ["n"] }',
                "the schema requires 'n', which is not one of its properties",
            ),
            ('name = "a"\n[[tools]]\nname = "a"', "2 functions are named 'a': give each function a unique name"),
        ],
    )
    def test_a_tool_that_is_not_well_defined_is_a_finding(
        self, command: Command, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, told: str
    ) -> None:
        (tmp_path / "john.toml").write_text(f'name = "John"\n[[tools]]\n{tool}')
        monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
        rows = command("doctor", "-o", "json").json
        (row,) = [row for row in rows if told in row["message"]]
        assert (row["check"], row["mend"]) == ("profile", "correct the tools in THREADLEDGER_PROFILE")

    def test_one_that_is_not_toml_is_a_finding(
        self, command: Command, ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "john.toml").write_text("name = ")
        monkeypatch.setenv("THREADLEDGER_PROFILE", "john.toml")
        assert list(findings(command("doctor", "-o", "json"))) == ["profile"]
