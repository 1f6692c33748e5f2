"""The promises to scripts: JSON keys and exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]

FAILURE_KEYS = [
    *(
        "run_id",
        "key",
        "exchange_id",
        "at",
        "backend",
        "model",
        "attempt",
        "status",
        "code",
        "type",
        "message",
        "http_status",
    ),
    *(
        "request_id",
        "cause",
        "advice",
        "duration_seconds",
        "next",
        "answered_by",
        "remote_run_id",
        "thread_id",
        "details",
        "endpoint",
        "actor",
    ),
]
MESSAGE_KEYS = [
    *(
        "message_id",
        "version",
        "at",
        "role",
        "content",
        "tool_calls",
        "tool_call_id",
        "exchange_id",
        "run_id",
        "source",
        "written_at",
    ),
]


def fail_runs(provider: Any, times: int = 1) -> None:
    provider.add_fault("POST /threads/{thread_id}/runs", fail={}, times=times)


def fail_everything(provider: Any) -> None:
    fail_runs(provider)
    refusal = {"status": 429, "code": "rate_limit_exceeded", "message": "Rate limit reached."}
    provider.add_fault("POST /chat/completions", refuse=refusal)


def test_ask_prints_the_answer_and_nothing_else_on_stdout(command: Command, provider: Any) -> None:
    provider.answer("Tomorrow.")
    done = command("ask", "k", "When?")
    assert (done.code, done.out, done.err) == (0, "Tomorrow.\n", "")


def test_ask_in_json_has_the_promised_keys(command: Command, provider: Any) -> None:
    fail_runs(provider)
    told = command("ask", "k", "When?", "-o", "json").json
    promised = [
        "key",
        "exchange_id",
        "answer",
        "backend",
        "model",
        "run_id",
        "fallback",
        "failures",
        "version",
        "usage",
        "message_id",
        "selected",
        "pending",
        "dropped",
        "losses",
    ]
    assert list(told) == promised
    assert told["fallback"] is True
    assert [list(failure) for failure in told["failures"]] == [FAILURE_KEYS]
    assert told["failures"][0]["cause"] == "provider_error"
    assert told["failures"][0]["next"] == "fallback"
    assert told["failures"][0]["answered_by"] == told["run_id"]


def test_an_unanswered_ask_exits_1_and_still_tells_its_failures(command: Command, provider: Any) -> None:
    fail_everything(provider)
    done = command("ask", "k", "When?", "-o", "json")
    assert done.code == 1
    assert done.json["answer"] is None
    assert [failure["cause"] for failure in done.json["failures"]] == ["provider_error", "rate_limited"]
    assert "the question is kept" in done.err


def test_ask_says_on_stderr_who_failed_and_who_answered(command: Command, provider: Any) -> None:
    fail_runs(provider)
    told = command("ask", "k", "When?").err
    assert "provider_error (server_error: Sorry, something went wrong.)" in told
    assert "answered by fallback: chat" in told


def test_the_same_idempotency_key_asks_once(command: Command, provider: Any) -> None:
    first = command("ask", "k", "When?", "--idempotency-key", "r1", "-o", "json").json
    second = command("ask", "k", "When?", "--idempotency-key", "r1", "-o", "json").json
    assert second["run_id"] == first["run_id"]
    assert command("list", "-o", "json").json[0]["messages"] == 2


def test_append_journals_and_mirrors_and_asks_nobody(command: Command, provider: Any) -> None:
    told = command("append", "k", "user", "Hello", "-o", "json").json
    assert list(told) == ["key", *MESSAGE_KEYS]
    assert [len(messages) for messages in provider.provider.messages.values()] == [1]
    assert not provider.provider.runs


def test_append_reads_standard_input(command: Command) -> None:
    assert command("append", "k", "user", "-", stdin="Grüße".encode()).code == 0
    assert command("show", "k", "-o", "json").json["messages"][0]["content"] == "Grüße"


def test_list_has_the_promised_keys_and_the_newest_first(command: Command, provider: Any) -> None:
    command("append", "old", "user", "Hello")
    command("ask", "new", "When?")
    told = command("list", "-o", "json").json
    assert [row["key"] for row in told] == ["new", "old"]
    assert list(told[0]) == [
        *("key", "version", "messages", "exchanges", "failed_runs", "unanswered", "threads", "started_at", "last_at"),
        *("written_at", "title", "owner", "tags", "archived", "metadata"),
    ]
    assert command("list", "--limit", "1", "-o", "jsonl").out.count("\n") == 1


def test_list_finds_text_without_its_accents(command: Command) -> None:
    command("append", "fr", "user", "La livraison a échoué")
    command("append", "en", "user", "The delivery failed")
    assert [row["key"] for row in command("list", "--search", "echoue", "-o", "json").json] == ["fr"]


def test_show_has_messages_and_threads(command: Command, provider: Any) -> None:
    command("ask", "k", "When?")
    told = command("show", "k", "-o", "json").json
    assert list(told) == ["key", "version", "messages", "threads"]
    assert [list(message) for message in told["messages"]] == [MESSAGE_KEYS, MESSAGE_KEYS]
    assert list(told["threads"]) == ["assistants"]


def test_show_as_of_a_version_and_the_last_messages(command: Command) -> None:
    for word in ("one", "two", "three"):
        command("append", "k", "user", word)
    assert [m["content"] for m in command("show", "k", "--at", "3", "-o", "json").json["messages"]] == ["one", "two"]
    assert [m["content"] for m in command("show", "k", "--last", "1", "-o", "json").json["messages"]] == ["three"]
    assert command("show", "k", "--at", "2001-01-01", "-o", "json").json["messages"] == []


def test_events_have_the_promised_keys(command: Command, provider: Any) -> None:
    command("ask", "k", "When?")
    told = command("events", "k", "-o", "json").json
    assert {tuple(event) for event in told} == {("position", "key", "version", "type", "at", "data", "cursor")}
    assert [event["version"] for event in told] == list(range(1, len(told) + 1))
    assert [event["type"] for event in command("events", "--type", "RunStarted", "-o", "json").json] == ["RunStarted"]
    assert command("events", "--after", str(told[-1]["position"]), "-o", "json").json == []
    assert command("events", "--after", told[2]["cursor"], "-o", "json").json == told[3:]


@pytest.mark.parametrize("more", [(), ("k",), ("--follow",), ("--type", "RunFailed")], ids=" ".join)
def test_events_after_a_cursor_of_a_rewound_log_exit_4_and_say_how_to_continue(
    command: Command, more: tuple[str, ...]
) -> None:
    command("append", "k", "user", "kept")
    command("db", "backup", "backup.db")
    command("append", "k", "user", "lost")
    cursor = command("events", "-o", "json").json[-1]["cursor"]
    shutil.copy("backup.db", "threadledger.db")
    command("append", "k", "user", "new")
    done = command("events", "--after", cursor, *more)
    assert (done.code, done.out) == (4, "")
    assert "the log was rewound" in done.err
    assert done.err.count("\n") == 1
    assert "threadledger events --after 0" in done.err


@pytest.mark.parametrize("more", [(), ("k",), ("--follow",)], ids=" ".join)
@pytest.mark.parametrize("after", ["-1", "x", "v1.x.1.00", "9" * 19, "v1.another-ledger.2.0123456789abcdef"])
def test_events_after_a_cursor_that_cannot_be_used_exit_2(command: Command, after: str, more: tuple[str, ...]) -> None:
    command("append", "k", "user", "hello")
    done = command("events", f"--after={after}", *more)
    assert (done.code, done.out) == (2, "")
    assert "pass" in done.err
    assert done.err.count("\n") == 1


def test_audit_failures_has_the_promised_keys_and_filters(command: Command, provider: Any) -> None:
    fail_everything(provider)
    command("ask", "k", "When?")
    told = command("audit", "failures", "-o", "json").json
    assert [list(failure) for failure in told] == [FAILURE_KEYS, FAILURE_KEYS]
    assert len(command("audit", "failures", "--cause", "rate_limited", "-o", "json").json) == 1
    assert len(command("audit", "failures", "--backend", "assistants", "-o", "json").json) == 1
    assert len(command("audit", "failures", "--code", "server_error", "--unanswered", "-o", "json").json) == 1
    assert len(command("audit", "failures", "--since", "1h", "-o", "json").json) == 2
    assert command("audit", "failures", "--until", "1h", "-o", "json").json == []
    assert command("audit", "failures", "--cause", "bad_luck").code == 2


def test_audit_failures_exits_4_for_cron_where_there_is_one(command: Command, provider: Any) -> None:
    command("append", "k", "user", "Hello")
    assert command("audit", "failures", "--exit-code").code == 0
    fail_runs(provider)
    command("ask", "k", "When?")
    assert command("audit", "failures", "--exit-code").code == 4
    assert command("audit", "failures").code == 0


def test_audit_show_tells_facts_cause_advice_and_the_exchange(command: Command, provider: Any) -> None:
    fail_runs(provider)
    command("ask", "k", "When?")
    run_id = command("audit", "failures", "-o", "json").json[0]["run_id"]
    told = command("audit", "show", run_id, "-o", "json").json
    assert list(told)[: len(FAILURE_KEYS)] == FAILURE_KEYS
    assert [run["state"] for run in told["exchange"]] == ["failed", "completed"]
    assert "provider_error" in command("audit", "show", run_id[-8:]).out
    assert command("audit", "show", "nonsense").code == 6


def test_a_plan_to_rebuild_writes_nothing(command: Command, provider: Any) -> None:
    command("append", "k", "user", "Hello")
    before = len(provider.requests)
    told = command("replay", "rebuild", "k", "-o", "json").json
    assert list(told[0]) == [
        *(
            "key",
            "backend",
            "old_thread_id",
            "thread_id",
            "messages",
            "sent",
            "losses",
            "digest",
            "verified",
            "state",
            "reason",
        ),
    ]
    assert told[0]["state"] == "planned"
    assert len(provider.requests) == before


def test_rebuild_applied_is_done_and_verified(command: Command, provider: Any) -> None:
    command("append", "k", "user", "Hello")
    provider.lose(next(iter(provider.provider.threads)))
    assert command("replay", "verify", "k").code == 4
    told = command("replay", "rebuild", "k", "--apply", "--yes", "-o", "json").json[0]
    assert (told["state"], told["verified"], told["sent"]) == ("done", True, 1)
    again = command("replay", "rebuild", "k", "--apply", "--yes", "-o", "json").json[0]
    assert (again["state"], again["thread_id"]) == ("skipped", told["thread_id"])
    assert command("replay", "verify", "--all").code == 0


def test_what_writes_asks_first_and_needs_yes_without_a_terminal(command: Command, provider: Any) -> None:
    command("append", "k", "user", "Hello")
    before = len(provider.requests)
    done = command("replay", "rebuild", "--all", "--apply")
    assert (done.code, done.out) == (8, "")
    assert "--yes" in done.err
    assert len(provider.requests) == before


def test_verify_has_the_promised_keys(command: Command, provider: Any) -> None:
    command("append", "k", "user", "Hello")
    told = command("replay", "verify", "k", "-o", "json").json[0]
    assert list(told)[:9] == [
        "key",
        "backend",
        "thread_id",
        "journal",
        "thread",
        "missing",
        "extra",
        "different",
        "state",
    ]
    assert told["state"] == "same"


def test_some_threads_that_cannot_be_written_exit_3(command: Command, provider: Any) -> None:
    command("append", "a", "user", "Hello")
    command("append", "b", "user", "Hello")
    refusal = {"status": 403, "message": "You may not do this."}
    provider.add_fault("POST /threads", refuse=refusal)
    done = command("replay", "rebuild", "--all", "--fresh", "--apply", "--yes", "-o", "json")
    assert done.code == 3
    assert [item["state"] for item in done.json] == ["failed", "done"]


def test_rerun_has_the_promised_keys_and_answers_once(command: Command, provider: Any) -> None:
    fail_everything(provider)
    command("ask", "k", "When?")
    plan = command("replay", "rerun", "--failed", "-o", "json").json[0]
    assert list(plan) == [
        *("key", "exchange_id", "run_id", "state", "reason", "answer", "new_run_id", "backend", "model"),
        *("estimated_tokens", "estimated_cost", "usage", "original", "fork", "cost"),
    ]
    assert plan["state"] == "planned"
    done = command("replay", "rerun", "--failed", "--apply", "--yes", "-o", "json").json[0]
    assert (done["state"], done["answer"]) == ("answered", "You said: When?")
    again = command("replay", "rerun", plan["run_id"], "--apply", "--yes", "-o", "json").json[0]
    assert again["state"] == "skipped"
    assert "already answered" in again["reason"]


def test_a_rerun_stopped_by_its_limit_exits_5_and_goes_on_later(command: Command, provider: Any) -> None:
    for key in ("a", "b"):
        fail_everything(provider)
        command("ask", key, "When?")
    done = command("replay", "rerun", "--failed", "--max-runs", "1", "--apply", "--yes", "-o", "json")
    assert done.code == 5
    assert sorted(item["state"] for item in done.json) == ["answered", "planned"]
    assert command("replay", "rerun", "--failed", "--apply", "--yes").code == 0


def test_import_export_and_import_again(command: Command, tmp_path: Any) -> None:
    line = json.dumps({"id": "k", "source": "app", "messages": [{"role": "user", "content": "Hé"}]}, ensure_ascii=False)
    (tmp_path / "in.jsonl").write_text(line + "\n", encoding="utf-8")
    assert command("import", "in.jsonl").code == 0
    assert command("import", "in.jsonl", "-o", "json").json[0]["state"] == "unchanged"
    assert command("export", "--all", "--format", "messages").out == line + "\n"
    assert command("export", "k", "--output", "out.jsonl").code == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["messages"][0]["source"] == "import"


def test_an_import_with_bad_lines_keeps_the_good_ones_and_exits_3(command: Command) -> None:
    good = json.dumps({"id": "good", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    done = command("import", "-", "-o", "json", stdin=b"nonsense\n" + good + b"\n\xff\n")
    assert done.code == 3
    assert [(row["line"], row["state"]) for row in done.json] == [(1, "failed"), (3, "failed"), (2, "imported")]
    assert command("list", "-o", "json").json[0]["key"] == "good"


def test_db_status_has_the_promised_keys(command: Command) -> None:
    command("append", "k", "user", "Hello")
    told = command("db", "status", "-o", "json").json
    assert list(told) == [
        "url",
        "dialect",
        "schema_version",
        "events",
        "conversations",
        "size_bytes",
        "read_only",
        "views",
    ]
    assert (told["events"], told["conversations"], told["dialect"]) == (2, 1, "sqlite")


def test_config_masks_secrets_and_tells_where_settings_come_from(command: Command, provider: Any) -> None:
    done = command("config", "--origin", "-o", "json")
    rows = {row["name"]: row for row in done.json}
    assert rows["OPENAI_API_KEY"] == {
        "name": "OPENAI_API_KEY",
        "value": "********",
        "origin": "environment",
        "trust": None,
    }
    assert rows["THREADLEDGER_DB"]["origin"] == "default"
    assert "sk-planted" not in done.out + done.err


def test_init_writes_the_example_and_the_database_and_nothing_twice(command: Command, tmp_path: Any) -> None:
    assert command("init").code == 0
    assert (tmp_path / "threadledger.db").is_file()
    (tmp_path / ".env").write_text("OPENAI_API_KEY=mine\n")
    again = command("init")
    assert (again.code, "was not changed" in again.err) == (0, True)
    assert (tmp_path / ".env").read_text() == "OPENAI_API_KEY=mine\n"
    assert command("init", "--force").code == 0
    assert (tmp_path / ".env.bak").read_text() == "OPENAI_API_KEY=mine\n"


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_the_shared_options_go_before_or_after_the_command(command: Command, form: str) -> None:
    command("append", "k", "user", "Hello")
    assert command("-o", form, "list").out == command("list", "-o", form).out


def test_csv_is_read_back_by_a_csv_reader(command: Command, provider: Any) -> None:
    import csv
    import io

    fail_runs(provider)
    command("ask", "k", "When, exactly?")
    row = next(csv.DictReader(io.StringIO(command("audit", "failures", "-o", "csv").out)))
    assert row["cause"] == "provider_error"
    assert json.loads(row["details"])["prompt_tokens"] >= 0


def test_replay_is_a_command_of_its_own(provider: Any, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    from threadledger.cli import replay_main

    command("append", "k", "user", "Hello")
    assert replay_main(["verify", "k", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "same"


def test_the_demo_tells_the_story_and_leaves_nothing(command: Command, tmp_path: Any) -> None:
    done = command("demo")
    assert done.code == 0
    for word in (
        "provider_error",
        "answered by fallback: chat",
        "gone",
        "Your parcel 00340434",
        "with the whole memory",
        "python support_2024.py\nrun       > completed\nuser      > I am not at home tomorrow.",
        "assistant > Your neighbour gets it. Have a good trip.",
    ):
        assert word in done.out + done.err
    assert done.out.endswith("\nThat is threadledger: your conversations outlive any provider's threads.\n")
    assert list(tmp_path.iterdir()) == []
    assert command("demo", "--keep", "kept").code == 0
    listed = command("--db", "sqlite:///kept/threadledger.db", "list", "-o", "json").json
    assert [each["key"] for each in listed] == ["thread_Pd7sLw2XbHq9RkM4", "customer-42"]
    written = command("--db", "sqlite:///kept/threadledger.db", "events", "-o", "json").json
    assert {each["data"].get("actor") for each in written} == {"cli:tester"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_every_shell(shell: str, tmp_path: Any) -> None:
    import os
    import subprocess
    import sys

    program = "import sys; from threadledger.cli import main; sys.argv[0] = 'threadledger'; sys.exit(main())"
    env = os.environ | {"_THREADLEDGER_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "threadledger" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "key",
    ["$(touch x)", "`id`", "a;id", "a|id", "a b", "a>b", "it's", 'a"b', "*", "~root", "--yes", "a\\b", "{a,b}", "!1"],
)
def test_a_key_that_a_shell_would_execute_or_expand_is_not_completed(command: Command, key: str) -> None:
    from click.shell_completion import BashComplete

    from threadledger.cli import root

    for each in ("a-user@host:7/ü", key):
        assert command("append", "--", each, "user", "Hello").code == 0
    complete = BashComplete(root, {}, "threadledger", "_THREADLEDGER_COMPLETE")
    assert [item.value for item in complete.get_completions(["show"], "")] == ["a-user@host:7/ü"]


def test_keys_and_commands_are_completed(command: Command) -> None:
    from click.shell_completion import ShellComplete

    from threadledger.cli import root

    command("append", "customer-42", "user", "Hello")
    complete = ShellComplete(root, {}, "threadledger", "_THREADLEDGER_COMPLETE")
    assert [item.value for item in complete.get_completions([], "ev")] == ["events"]
    assert [item.value for item in complete.get_completions(["show"], "cust")] == ["customer-42"]
