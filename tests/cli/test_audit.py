"""The audit's commands: what is promised, failures as they come, groups, the report as a file."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any

import openai
import pytest

import threadledger
from threadledger.adapters.sql import Database, Factory
from threadledger.domain.conversation import RunPlan
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ids import now
from threadledger.domain.journal import Journal
from threadledger.domain.ledger import Ledger

from .auditing import NOW, open_story

Command = Callable[..., Any]

GROUP_KEYS = [
    *("group", "cause", "backend", "message", "runs", "conversations", "first_at", "last_at", "answered", "unanswered"),
    "advice",
]
SUMMARY_KEYS = [
    *(
        "by",
        "value",
        "runs",
        "failed",
        "failure_rate",
        "fallbacks",
        "answered",
        "unanswered",
        "p50_seconds",
        "p95_seconds",
    ),
]


@pytest.fixture
def ledger(db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger that the commands are pointed at."""
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    with Ledger(Journal(Factory(database=Database(db_url)))) as opened:
        yield opened


@pytest.fixture
def story(db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    with open_story(db_url) as opened:
        yield opened


def fail(ledger: Ledger, key: str = "k", text: str = "no") -> str:
    with pytest.raises(RuntimeError), ledger.conversation(key).run("own", "m") as run:
        raise RuntimeError(text)
    return str(run.run_id)


# What is promised


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "at 2026-11-29 19:45"),
        (59, "at 2026-11-29 19:45"),
        (60, "from 2026-11-29 19:45 to 2026-11-29 19:46"),
        (86_400, "from 2026-11-29 19:45 to 2026-11-30 19:45"),
    ],
)
def test_times_of_one_minute_are_shown_as_one_time(
    command: Command, story: Ledger, monkeypatch: pytest.MonkeyPatch, seconds: int, said: str
) -> None:
    first = datetime(2026, 11, 29, 20, 45, tzinfo=timezone(timedelta(hours=1)))
    last = first + timedelta(seconds=seconds)
    groups = [
        replace(group, first_at=first, last_at=last, trend_since=first, trend_until=last)
        for group in story.failure_groups()
    ]
    monkeypatch.setattr(Ledger, "failure_groups", lambda *_, **__: groups)
    assert f"trend: 12 parts {said}\n" in command("audit", "groups").out
    assert command("audit", "report", "--output", "report.html").code == 0
    assert f"<span>{said}</span>" in Path("report.html").read_text(encoding="utf-8")


def test_groups_have_the_promised_keys_in_their_order(command: Command, story: Ledger) -> None:
    told = command("audit", "groups", "-o", "json").json
    assert [list(group)[: len(GROUP_KEYS)] for group in told] == [GROUP_KEYS] * 4
    assert sum(group["runs"] for group in told) == 5


@pytest.mark.parametrize("by", ["cause", "code", "backend", "model", "profile", "actor", "day", "hour"])
def test_summaries_have_the_promised_keys_and_their_sums_agree(command: Command, story: Ledger, by: str) -> None:
    rows = command("audit", "summary", "--by", by, "-o", "json").json
    assert [list(row)[: len(SUMMARY_KEYS)] for row in rows] == [SUMMARY_KEYS] * len(rows)
    assert sum(row["failed"] for row in rows) == 5
    for row in rows:
        assert row["answered"] + row["unanswered"] == row["exchanges"] <= row["failed"]
        assert row["failure_rate"] == round(row["failed"] / row["runs"], 6)


def test_failures_are_the_same_in_every_format(command: Command, story: Ledger) -> None:
    array = command("audit", "failures", "-o", "json").json
    lines = [json.loads(line) for line in command("audit", "failures", "-o", "jsonl").out.splitlines()]
    table = list(csv.DictReader(io.StringIO(command("audit", "failures", "-o", "csv").out)))
    assert array == lines
    assert [list(row) for row in table] == [list(row) for row in array]
    assert [row["run_id"] for row in table] == [row["run_id"] for row in array]
    assert json.loads(table[1]["details"]) == array[1]["details"]


def test_show_keeps_its_keys_and_says_how_to_run_it_again(command: Command, story: Ledger) -> None:
    told = command("audit", "show", "bbbb0002", "--memory", "-o", "json").json
    assert told["rerun"] == "threadledger replay rerun bbbb0002 --apply"
    assert told["profile"]["name"] == "John"
    assert told["profile"]["tools"] == ["web_search", "file_search"]
    assert (told["memory"]["same"], [each["content"] for each in told["memory"]["messages"]]) == (True, ["Hello?"])
    assert [step["duration_seconds"] for step in told["exchange"]] == [0.25, 0.5]
    group = command("audit", "groups", "-o", "json").json
    assert told["group"] in {each["group"] for each in group}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("audit", "resolve", "nosuch"), 6, "no group 'nosuch'"),
        (("audit", "mute", "nosuch"), 6, "no group 'nosuch'"),
        (("audit", "reopen", ""), 6, "no group ''"),
        (("audit", "show", "nosuchrun"), 6, "no run 'nosuchrun'"),
        (("audit", "groups", "--state", "gone"), 2, "--state"),
        (("audit", "summary", "--by", "colour"), 2, "--by"),
        (("audit", "report"), 2, "--output"),
        (("audit", "failures", "--follow", "--exit-code"), 2, "--follow never ends"),
        (("audit", "failures", "--cause", "gone"), 2, "there is no cause 'gone'"),
        (("audit", "groups", "--since", "yesterday"), 2, "is not a time"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    command: Command, story: Ledger, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = command(*arguments)
    assert done.code == code
    assert told in done.err


def test_a_time_that_is_past_is_refused_for_a_mute(command: Command, story: Ledger) -> None:
    group = story.failure_groups()[0].group
    done = command("audit", "mute", group, "--until", "2020-01-01")
    assert done.code == 2
    assert "which is in the past" in done.err


def test_for_cron_it_exits_4_where_there_is_one(command: Command, story: Ledger) -> None:
    assert command("audit", "failures", "--exit-code").code == 4
    assert command("audit", "failures", "--exit-code", "--cause", "network").code == 0


# Every path by which a run fails


class Broken(Exception):
    """What an app's own model raises."""


def test_a_failure_of_every_path_is_there(provider: Any, command: Command, db_url: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("THREADLEDGER_DB", db_url)
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "chat")
    refusal = {"status": 429, "code": "rate_limit_exceeded", "message": "Rate limit reached."}
    with threadledger.open() as ledger:
        provider.add_fault("POST /chat/completions", refuse=refusal, times=4)
        with pytest.raises(AllBackendsFailed):
            ledger.conversation("asked").ask("Hello?")
        with pytest.raises(AllBackendsFailed):
            list(ledger.conversation("streamed").stream("Hello?"))
        with pytest.raises(Broken), ledger.conversation("own").run("my-llm", "llama"):
            raise Broken
        client = threadledger.record(
            openai.OpenAI(base_url=provider.base_url, api_key="sk-x", max_retries=0), ledger, key="recorded"
        )
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello?"}])
        rerun = ledger.replay.plan_rerun(runs=[ledger.failures()[0].run_id], into="shadow")
        list(rerun.each())
        hourless = RunPlan("chat", "m", timeout_seconds=-100)
        ledger.journal.commit("crashed", lambda it: it.start_run("x", hourless), create=True)
    found = command("audit", "failures", "-o", "json").json
    told = [(each["key"], each["backend"], each["cause"]) for each in found]
    assert sorted(told) == [
        ("asked", "chat", "rate_limited"),
        ("asked", "chat", "rate_limited"),
        ("crashed", "chat", "interrupted"),
        ("own", "my-llm", "unknown"),
        ("recorded", "chat", "rate_limited"),
        ("streamed", "chat", "rate_limited"),
    ]


def test_what_a_preflight_refuses_is_there_though_nobody_was_called(
    provider: Any, command: Command, monkeypatch: Any
) -> None:
    tools = "\n".join(f'[[tools]]\nname = "t{number}"' for number in range(129))
    Path("many.toml").write_text(f'name = "John"\ninstructions = "Be kind."\n{tools}\n')
    monkeypatch.setenv("THREADLEDGER_PROFILE", "many.toml")
    monkeypatch.setenv("THREADLEDGER_BACKENDS", "assistants")
    command("ask", "k", "Hello?")
    (failure,) = command("audit", "failures", "-o", "json").json
    assert (failure["status"], failure["cause"], failure["http_status"]) == ("refused", "too_many_tools", None)
    assert not any(request.template == "POST /threads/{thread_id}/runs" for request in provider.requests)


# Failures as they come

FOLLOW = "import sys; from threadledger.cli import main; sys.exit(main())"


@contextmanager
def following(*options: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process that follows; it is ended where the test has not ended it."""
    called = [sys.executable, "-u", "-c", FOLLOW, "audit", "failures", "--follow", *options]
    process = subprocess.Popen(called, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        process.kill()
        process.communicate()


def test_failures_of_other_processes_come_as_they_fail_and_ctrl_c_ends_with_130(ledger: Ledger) -> None:
    before = fail(ledger, "before")
    with following("-o", "jsonl") as (process, out):
        assert json.loads(out.readline())["run_id"] == before
        for number in range(3):
            run_id = fail(ledger, f"k{number}", "no place")
            told = json.loads(out.readline())
            assert (told["run_id"], told["key"], told["message"]) == (run_id, f"k{number}", "no place")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_only_what_is_wanted_comes(ledger: Ledger) -> None:
    for number in range(3):
        fail(ledger, f"k{number}")
    with following("-o", "json", "--backend", "own", "--limit", "1") as (_, out):
        assert json.loads(out.readline())["key"] == "k2"
        with pytest.raises(RuntimeError), ledger.conversation("other").run("another", "m"):
            raise RuntimeError
        fail(ledger, "wanted")
        assert json.loads(out.readline())["key"] == "wanted"


@pytest.mark.parametrize("output", ["table", "csv"])
def test_a_table_and_csv_follow_too_a_line_each(ledger: Ledger, output: str) -> None:
    run_id = fail(ledger, "k\x1b[2J", "no")
    with following("-o", output) as (_, out):
        if output == "csv":
            assert out.readline().startswith("run_id,key,")
        line = out.readline()
        assert run_id[-8:] in line
        assert ("\x1b" in line) == (output == "csv")
        fail(ledger, "second", "a new\nline")
        assert "second" in out.readline()


def test_runs_that_a_crash_left_open_are_closed_while_somebody_follows(ledger: Ledger) -> None:
    plan = RunPlan("chat", "m", timeout_seconds=-29.0)  # overdue in a second: with the grace that its process has
    ledger.journal.commit("crashed", lambda it: it.start_run("x", plan), create=True)
    with following("-o", "jsonl") as (_, out):
        told = json.loads(out.readline())
        assert (told["key"], told["cause"]) == ("crashed", "interrupted")


# The report


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "rect", "line", "circle"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_report_stands_by_itself(command: Command, story: Ledger) -> None:
    assert command("audit", "report", "--output", "report.html").code == 0
    text = Path("report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [], "every element is closed"
    assert {"svg", "table", "style"} <= set(page.tags)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "a"} & set(page.tags)
    assert not any(
        name in {"src", "href", "xlink:href", "style"} or name.startswith("on") for name, _ in page.attributes
    )
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    for told in ("provider_error", "rate_limited", "b774dee55a", "Too many requests or tokens per minute", "33.3%"):
        assert told in text


def test_the_policy_of_the_report_allows_its_own_style_sheet_and_nothing_else(command: Command, story: Ledger) -> None:
    assert command("audit", "report", "--output", "report.html").code == 0
    text = Path("report.html").read_text(encoding="utf-8")
    head, _, rest = text.partition("<style>")
    own = base64.b64encode(hashlib.sha256(rest.partition("</style>")[0].encode()).digest()).decode()
    [policy] = re.findall('<meta http-equiv="Content-Security-Policy" content="(.*?)">', head)
    assert policy == f"default-src 'none'; style-src 'sha256-{own}'; base-uri 'none'; form-action 'none'"
    assert text.count("<style") == 1


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_applies_the_style_of_the_report_and_reports_no_violation(command: Command, story: Ledger) -> None:
    assert command("audit", "report", "--output", "report.html").code == 0
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=500")
    page = Path("report.html").absolute().as_uri()
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page], capture_output=True, text=True, timeout=60, check=True
    )
    assert "<h1>Failed runs</h1>" in done.stdout
    assert "Content Security Policy" not in done.stderr


def test_every_text_of_the_report_is_escaped(command: Command, ledger: Ledger) -> None:
    evil = "<script>alert(1)</script> & \"<b>\" '<i>' <img src=https://evil.example/x onerror=alert(1)>"
    with pytest.raises(RuntimeError), ledger.conversation("k").run("<u>own</u>", "<s>m</s>"):
        raise RuntimeError(evil)
    with pytest.raises(RuntimeError), ledger.conversation("k").run("own", "m"):
        raise RuntimeError("<script>alert(2)</script>")
    ledger.resolve_group(ledger.failure_groups()[0].group, "<em>mended</em>")
    assert command("audit", "report", "--output", "report.html").code == 0
    page = Page(Path("report.html").read_text(encoding="utf-8"))
    assert not {"script", "u", "s", "em", "img"} & set(page.tags)
    assert not any(name == "src" or name.startswith("on") for name, _ in page.attributes)
    texts = " ".join(page.texts)
    for told in ("<script>alert(<n>)", "<u>own</u>", "<em>mended</em>", "<s>m</s>"):
        assert told in texts


def test_a_report_of_nothing_is_a_page_too(command: Command, ledger: Ledger) -> None:
    assert command("audit", "report", "--output", "report.html").code == 0
    assert Page(Path("report.html").read_text(encoding="utf-8")).texts.count("Nothing failed.") == 3, (
        "by day, in groups, by cause"
    )


def test_a_report_never_overwrites_unless_it_is_told_to(command: Command, story: Ledger) -> None:
    Path("report.html").write_text("mine")
    done = command("audit", "report", "--output", "report.html")
    assert (done.code, Path("report.html").read_text()) == (7, "mine")
    assert "--force" in done.err
    assert command("audit", "report", "--output", "report.html", "--force").code == 0
    assert command("audit", "report", "--output", "nowhere/report.html").code == 1


def test_many_days_share_the_columns_of_the_plot(command: Command, story: Ledger) -> None:
    from threadledger.adapters.report.plots import COLUMNS_MAX, by_day

    days = [((NOW + timedelta(days=number)).date().isoformat(), "network", 1) for number in range(1_000)]
    drawn = by_day(days, {"network": 0})
    columns = re.findall(r'class="c0"', drawn)
    assert COLUMNS_MAX / 2 < len(columns) <= COLUMNS_MAX
    assert sum(int(number.replace(",", "")) for number in re.findall(r": ([\d,]+) network", drawn)) == 1_000


# Python


def test_what_is_awaited_is_the_same(story: Ledger, db_url: str) -> None:
    import asyncio

    async def both() -> tuple[Any, ...]:
        async with threadledger.open_async(db_url) as ledger:
            groups = await ledger.failure_groups()
            resolved = await ledger.resolve_group(groups[0].group)
            muted = await ledger.mute_group(groups[0].group, now() + timedelta(hours=1))
            reopened = await ledger.reopen_group(groups[0].group)
            return groups, await ledger.summary("code"), resolved.state, muted.state, reopened.state

    groups, rows, *states = asyncio.run(both())
    assert [each.group for each in groups] == [each.group for each in story.failure_groups()]
    assert rows == story.summary("code")
    assert states == ["resolved", "muted", "open"]
