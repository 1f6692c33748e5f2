"""Nothing that others wrote controls a terminal: each command, on a ledger and a provider whose every text tries to."""

from __future__ import annotations

import inspect
import io
import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text

from threadledger.adapters import Simulator
from threadledger.cli.output import WRAPPED_CHARS_MAX, console, csv_cell, json_text, tracked
from threadledger.cli.terminal import SafeStream, printable, safe_output, styled
from threadledger.domain.conversation import Profile, events

from .auditing import NOW, Writer, open_story
from .command_table import KEY, TABLE, Entry
from .terminal import in_this_process, on_a_terminal

HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\x1b[2J\x1b[38;5;201mpink\x9b2J\u202eabc\u2066\u200b\ufeff\x7f\x85\u2028\r\u200f"
    "z\u200d\U000e0041\u061c"
)
"""Writes to the clipboard, sets the title, clears the screen, colours, reorders and hides what follows."""

HOSTILE_KEY = f"{KEY}{HOSTILE}"

CLI = Path(inspect.getfile(printable)).parent

OWN_STYLES = re.compile(r"\x1b\[(?!38;5;201)[0-9;]*m|\r?\x1b\[[0-9]*[AK]|\x1b\[\?25[hl]")
"""What rich writes: styles, and the movements of a progress bar."""


def controls(shown: str) -> set[str]:
    """The characters of an output that control the terminal or are invisible, apart from our own styles."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {each for each in OWN_STYLES.sub("", shown) if each not in "\n\t" and unicodedata.category(each) in kinds}


@pytest.fixture(scope="module")
def hostile_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("hostile") / "ledger.db"
    with open_story(f"sqlite:///{database}") as ledger:
        profile = Profile(HOSTILE, HOSTILE, HOSTILE, json.dumps([{"type": "function", "function": {"name": HOSTILE}}]))
        ledger.journal.define_profile(profile)
        it = Writer(ledger, HOSTILE_KEY, NOW - timedelta(hours=1))
        it.happen(
            events.ConversationStarted, key=HOSTILE_KEY, metadata={HOSTILE: HOSTILE}, parent_key=KEY, parent_version=1
        )
        it.say("user", HOSTILE, "x9")
        call = {"id": HOSTILE, "type": "function", "function": {"name": HOSTILE, "arguments": HOSTILE}}
        common = {"exchange_id": "x9", "source": HOSTILE}
        it.happen(events.MessageJournaled, message_id="m8", role="assistant", tool_calls=[call], **common)
        it.happen(
            events.MessageJournaled, message_id="m9", role="tool", content=HOSTILE, tool_call_id=HOSTILE, **common
        )
        started = {
            "backend": HOSTILE,
            "model": HOSTILE,
            "attempt": 1,
            "memory_rule": HOSTILE,
            "profile_hash": profile.hash,
        }
        it.happen(events.RunStarted, run_id="run-0099-dddd0001", exchange_id="x9", **started)
        texts = dict.fromkeys(("code", "type", "message", "param", "partial_text", "remote_run_id"), HOSTILE)
        it.fail("run-0099-dddd0001", 1.0, {"status": HOSTILE, "details": {HOSTILE: HOSTILE}} | texts)
        it.happen(events.FallbackUsed, exchange_id="x9", failed_run_id="run-0099-dddd0001", from_backend=HOSTILE,
                  to_backend=HOSTILE, reason=HOSTILE, dropped=[HOSTILE])  # fmt: skip
        it.happen(events.ThreadLinked, backend="conversations", thread_id=f"conv_{HOSTILE}")
        it.happen(events.ThreadLost, backend="assistants", thread_id=f"thread_{HOSTILE}", reason=HOSTILE)
        it.happen(events.ExchangeAbandoned, exchange_id="x9", run_ids=["run-0099-dddd0001"], reason=HOSTILE)
        for group in ledger.failure_groups():
            ledger.resolve_group(group.group, HOSTILE)
    return database


@pytest.fixture
def hostile_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """A provider that refuses every second question with a hostile error, and answers the other with a hostile text."""
    with Simulator(seed=1) as simulator:
        simulator.add_fault("*", refuse={"status": 400, **dict.fromkeys(("message", "code", "type"), HOSTILE)}, times=1)
        simulator.add_fault("POST /responses", refuse={"status": 500, "message": HOSTILE, "code": HOSTILE}, times=None)
        simulator.answer(*[HOSTILE] * 9)
        for name, value in (("BASE_URL", simulator.base_url), ("API_KEY", "sk-test"), ("MODEL", HOSTILE)):
            monkeypatch.setenv(f"OPENAI_{name}", value)
        monkeypatch.setenv("THREADLEDGER_RETRIES", "0")
        yield simulator


TYPED = {
    ("chat",): b"Hello\nAgain\n\n",
    ("import",): json.dumps({"id": HOSTILE, "messages": [{"role": HOSTILE, "content": 1}]}).encode()
    + b"\n"
    + b"\x04" * 9,
}
SHOWING = frozenset({"ask", "chat", "append", "list", "show", "diff", "fork", "events", "import", "config", "db backup",
    "audit failures", "audit groups", "audit show", "audit report", "replay rebuild", "replay rerun", "replay verify",
    "replay reconcile"})  # fmt: skip
"""Commands whose table shows a text that others wrote: there the test has something to find."""


def asked_of(path: tuple[str, ...], entry: Entry, folder: Path) -> Iterator[tuple[str, ...]]:
    """A command as a table and as JSON, and with arguments that do not exist."""
    new = {KEY: HOSTILE_KEY, "FILE": str(folder / f"file{HOSTILE}"), "FOLDER": str(folder / f"folder{HOSTILE}"),
           "URL": str(folder / "copy.db"), "aaaa1111": "dddd0001"}  # fmt: skip
    arguments = tuple(new.get(each, each) for each in entry.arguments)
    if not entry.serves:
        yield arguments
    if not entry.serves and not entry.without_ledger:
        yield (*arguments, "-o", "json")
    yield (*path, f"--{HOSTILE}")
    yield (*path, "-o", HOSTILE)


@pytest.mark.parametrize("path", TABLE, ids=" ".join)
def test_no_command_writes_what_controls_a_terminal(
    path: tuple[str, ...], hostile_database: Path, hostile_provider: Simulator, tmp_path: Path
) -> None:
    if path == (
        "demo",
    ):  # it has only texts of its own, and takes seconds: it is refused here, with the name of the folder
        kept = tmp_path / f"folder{HOSTILE}"
        kept.mkdir()
        (kept / "threadledger.db").touch()
    for number, arguments in enumerate(asked_of(path, TABLE[path], tmp_path)):
        database = shutil.copy(hostile_database, tmp_path / f"ledger{number}.db")
        _, shown = in_this_process(("--db", str(database), *arguments), typed=TYPED.get(path, b""))
        assert controls(shown) == set(), (arguments, shown)
        assert "unexpected error" not in shown, shown
        assert number > 0 or ("␛" in shown) >= (" ".join(path) in SHOWING), (arguments, shown)


@pytest.mark.parametrize(
    ("arguments", "typed", "columns"),
    [
        (("ask", KEY, "Hello", "--stream"), b"", 100),
        (("ask", KEY, "Hello", "--stream", "-o", "jsonl"), b"", 100),
        (("ask", KEY, "Hello", "-v"), b"", 100),
        (("ask", KEY, "Hello", "--log-format", "json"), b"", 100),
        (("replay", "rebuild", "--all", "--apply"), b"4\n", 100),
        (("replay", "rerun", "--failed", "--apply", "--yes"), b"", 100),
        (("show", KEY, "--view", "timeline"), b"", 100),
        (("audit", "failures"), b"", 40),
        (("audit", "failures", "-o", "csv"), b"", 100),
        (("events", "-o", "jsonl"), b"", 100),
        (("export", "--all", "--format", "markdown"), b"", 100),
    ],
)
def test_no_other_way_of_printing_controls_a_terminal(
    arguments: tuple[str, ...],
    typed: bytes,
    columns: int,
    hostile_database: Path,
    hostile_provider: Any,
    tmp_path: Path,
) -> None:
    database = shutil.copy(hostile_database, tmp_path / "ledger.db")
    arguments = tuple(HOSTILE_KEY if each == KEY else each for each in arguments)
    _, shown = in_this_process(("--db", str(database), *arguments), typed=typed, columns=columns)
    assert controls(shown) == set(), shown
    assert "unexpected error" not in shown, shown
    assert re.search("␛|u001b", shown)


@pytest.mark.parametrize("arguments", [("show", KEY), ("ask", KEY, "Hello", "--stream"), ("list", "-o", "json")])
def test_a_process_of_its_own_does_not_control_its_terminal(
    arguments: tuple[str, ...], hostile_database: Path, hostile_provider: Any, tmp_path: Path
) -> None:
    database = shutil.copy(hostile_database, tmp_path / "ledger.db")
    given_key = tuple(HOSTILE_KEY if each == KEY else each for each in arguments)
    code, shown = on_a_terminal(("--db", str(database), *given_key))
    assert code == 0
    assert controls(shown) == set(), shown
    assert re.search("␛|u001b", shown)


def test_a_traceback_does_not_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: Any) -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setenv("THREADLEDGER_DEBUG", "1")
    monkeypatch.setattr("threadledger.adapters.load_settings", fail)
    code, shown = in_this_process(("list",))
    assert (code, controls(shown)) == (1, set())
    assert "Traceback" in shown


def test_json_on_a_terminal_is_the_same_data(hostile_database: Path) -> None:
    _, shown = in_this_process(("--db", str(hostile_database), "show", HOSTILE_KEY, "-o", "json"))
    thing = json.loads(shown)
    assert (thing["key"], thing["messages"][0]["content"]) == (HOSTILE_KEY, HOSTILE)
    _, shown = in_this_process(("--db", str(hostile_database), "export", HOSTILE_KEY))
    assert json.loads(shown)["id"] == HOSTILE_KEY


def test_a_pipe_gets_the_exact_answer(command: Any, hostile_provider: Simulator) -> None:
    hostile_provider.clear_faults()
    assert command("ask", "k", "Hello").out == f"{HOSTILE}\n"
    assert command("ask", "k", "Hello", "--stream").out == f"{HOSTILE}\n"


ANY = st.text(st.one_of(st.characters(), st.sampled_from(HOSTILE + "\u200c\ufe0fa語😀\ud800")))


def letters(text: str) -> list[str]:
    return [each for each in text if each.isalnum() and printable(each) == each]


@given(ANY)
@example("❤️‍🔥 1️⃣ می‌خواهم ക്‍ 葛\U000e0100")
def test_no_control_stays_in_a_text_and_every_letter_does(text: str) -> None:
    shown = printable(text)
    assert controls(shown) <= {"\u200c", "\u200d"} | VISIBLE_FORMAT
    assert printable(shown) == shown
    rest = re.sub(r"‹U\+[0-9A-F]+›", "", shown)
    assert "‹" in text or letters(rest) == letters(text)
    assert not {"\n", "\t"} & set(printable(text, lines=False))
    encoded = json_text(text)
    assert json.loads(encoded) == text
    assert controls(encoded) <= {"\u200c", "\u200d"} | VISIBLE_FORMAT


VISIBLE_FORMAT = frozenset(
    chr(code)
    for ranges in ((0x600, 0x605), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x110BD, 0x110CD))
    for code in range(ranges[0], ranges[1] + 1)
) | frozenset(map(chr, range(0x13430, 0x13440)))
"""Signs of Arabic, Syriac, Kaithi and Egyptian that Unicode calls format characters, and that are visible or place others."""


@pytest.mark.parametrize("text", ["❤️‍🔥", "1️⃣", "می‌خواهم", "ക്‍", "葛\U000e0100", "é", "e\u0301", "日本", "a\tb\nc"])
def test_scripts_and_emoji_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", ["a\u200db", "a\u200cb", "a\ufe0f", "\u200d", "語\u200d\u200d", "e\u0301\u200d"])
def test_a_joiner_that_joins_nothing_is_shown(text: str) -> None:
    assert printable(text) != text


@given(st.lists(ANY, max_size=6))
def test_a_text_that_arrives_in_parts_is_shown_like_the_whole(parts: list[str]) -> None:
    written = io.StringIO()
    stream = SafeStream(written)
    for part in parts:
        stream.write(part)
    assert written.getvalue() == printable("".join(parts))


def test_styles_are_written_and_the_styles_in_a_text_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", written)
    monkeypatch.setenv("TERM", "xterm")
    with safe_output():
        console().print(Text("\x1b[31mred", style="bold"), "\x1b]0;title\x07")
    assert written.getvalue() == "\x1b[1m␛[31mred\x1b[0m ␛]0;title\n"  # rich itself takes BEL out


def test_a_sequence_that_is_not_a_style_is_not_written_for_rich_either() -> None:
    written = io.StringIO()
    styled(SafeStream(written)).write("\x1b[1mbold\x1b[0m\x1b[2J\x1b]52;c;eA==\x07\x9b2J")
    assert written.getvalue() == "\x1b[1mbold\x1b[0m␛[2J␛]52;c;eA==␇‹U+009B›2J"


def test_a_message_too_long_to_be_wrapped_is_printable_too(command: Any) -> None:
    text = "é \x1b" * WRAPPED_CHARS_MAX
    command("append", "k", "user", "-", stdin=text.encode())
    _, shown = in_this_process(("--db", "threadledger.db", "show", "k"), columns=40)
    assert printable(text) in shown
    assert controls(shown) == set()


def test_a_shell_is_offered_no_key_that_controls_its_terminal(
    command: Any, hostile_database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("COMPLETE", "bash_complete"), ("DB", f"sqlite:///{hostile_database}")):
        monkeypatch.setenv(f"{'_' if name == 'COMPLETE' else ''}THREADLEDGER_{name}", value)
    monkeypatch.setenv("COMP_WORDS", "threadledger show c")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        command()
    offered = capsys.readouterr().out.splitlines()
    assert {f"plain,{KEY}", "plain,customer-3"} <= set(offered)
    assert controls("".join(offered)) == set()


def test_no_command_writes_around_the_streams() -> None:
    sources = [path for path in CLI.rglob("*.py") if path.name != "terminal.py"]
    around = re.compile(r"os\.write\(|sys\.__std|std(out|err)\.buffer|rich\.print|from rich import")
    assert len(sources) > 20
    assert [path.name for path in sources if around.search(path.read_text(encoding="utf-8"))] == []


def test_bytes_cannot_be_written_around_the_stream() -> None:
    stream: Any = SafeStream(io.TextIOWrapper(io.BytesIO()))
    assert not hasattr(stream, "buffer")
    stream.write(b"\x1b")  # as click writes a script for the shell
    stream.flush()
    assert stream._stream.buffer.getvalue().decode() == "␛"


def test_what_is_printed_under_a_progress_bar_is_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    with safe_output():
        for _ in tracked(range(30), 30, "working"):
            print(HOSTILE, file=sys.stderr)
    assert controls(written.getvalue()) == set()
    assert "␛[38;5;201mpink" in written.getvalue()


def test_data_under_a_progress_bar_goes_to_its_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with safe_output():
        for _ in tracked(range(30), 30, "working"):
            print("data")
    assert capsys.readouterr().out == "data\n" * 30


@pytest.mark.parametrize(
    "value",
    [
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "'=1",
        '"=1',
        "＝1",
        "＋a",
        "－a",
        "＠a",
        "\tx",
    ],
)
def test_a_csv_cell_that_a_spreadsheet_would_execute_gets_an_apostrophe(value: str) -> None:
    assert csv_cell(value).startswith("'")
    assert csv_cell(value).replace("'", "") == value.replace("'", "")
    assert csv_cell(value, raw=True) == value


@pytest.mark.parametrize("value", ["x;=cmd", 'x;"=cmd', "x\n=cmd", "x\t@cmd", "x; +cmd", "x;=a;=b"])
def test_a_csv_cell_that_a_spreadsheet_would_split_is_not_executed_in_part(value: str) -> None:
    assert not re.search(r"""[;\t\r\n][\s"']*(?<!')[=+@-]""", csv_cell(value))
    assert csv_cell(value).replace("'", "") == value.replace("'", "")
    assert csv_cell(value, raw=True) == value


@pytest.mark.parametrize("value", [-5, -5.5, 0, None, "-5", "+5", "-1.5e-3", "", "a=1", "'quoted'", "2026-11-29", "ü"])
def test_other_csv_cells_stay_as_they_are(value: Any) -> None:
    assert csv_cell(value) == value


def test_csv_raw_keeps_every_cell(command: Any) -> None:
    command("append", "=1+1", "user", "x")
    assert command("list", "-o", "csv").out.splitlines()[1].startswith("'=1+1,")
    assert command("list", "-o", "csv", "--csv-raw").out.splitlines()[1].startswith("=1+1,")
    assert command("--csv-raw", "events", "=1+1", "-o", "csv").out.splitlines()[1].split(",")[1] == "=1+1"
