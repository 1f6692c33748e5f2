"""Measure the start of commands, in CPU time compared to a bare click program, and the lines loaded by a question.

python benchmarks/startup.py [runs]

Each round runs every command once, so that a slow moment of the machine affects all of them. A command reads a small
ledger, and a key is set. Times are medians of user and system time; ratios are comparable between machines, times are
not. The last line counts the product's own lines that a process has loaded after `threadledger.open()` and one question
to a chat-only ledger, including blank lines and docstrings.

Aims: `--version` takes at most 1.5 times a bare click program, the other commands at most 9 times; 13,000
lines.
"""

from __future__ import annotations

import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from elsewhere import simulator_elsewhere

import threadledger

VERSION_AIM = 1.5
COMMAND_AIM = 9.0
LINES_AIM = 13_000

COMMANDS = {"--version": VERSION_AIM, "list": COMMAND_AIM, "show k": COMMAND_AIM, "audit failures": COMMAND_AIM}

BARE = """
import click

@click.group()
@click.version_option("1.0")
def main():
    pass

main()
"""

OURS = """
import sys
from threadledger.cli import main
sys.exit(main())
"""

ONE_QUESTION = """
import sys
from pathlib import Path

import threadledger

url = sys.argv[1]
with threadledger.open("sqlite:///one.db", backends="chat", threads="none", openai_api_key="k", openai_base_url=url) as ledger:
    ledger.conversation("k").ask("Hello?")
ours = [module for name, module in sys.modules.items() if name.split(".")[0] == "threadledger"]
print(len(ours), sum(len(Path(module.__file__).read_text(encoding="utf-8").splitlines()) for module in ours))
"""


def run(place: Path, *arguments: str) -> str:
    # Modules are compiled once, in the first round, as in an installed package.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(place / "bytecode"),
        "OPENAI_API_KEY": "sk-none",
        "THREADLEDGER_DB": "sqlite:///threadledger.db",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
    ).stdout


def cpu_seconds(place: Path, *arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(place, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_ledger(url: str) -> None:
    """Write two conversations, one of them with a failed run, so that each command has something to show."""
    logging.getLogger("threadledger").setLevel(logging.CRITICAL)
    with threadledger.open(url) as ledger:
        ledger.conversation("k").append("user", "Where is my parcel?")
        try:
            with ledger.conversation("failed").run("own", "gpt-bench"):
                raise TimeoutError("the model did not answer")
        except TimeoutError:
            pass
        ledger.conversations(), ledger.failures()  # the views are up to date: a command only reads them


def measure(place: Path, runs: int) -> None:
    (place / "bare.py").write_text(BARE)
    (place / "ours.py").write_text(OURS)
    write_ledger(f"sqlite:///{place / 'threadledger.db'}")
    rounds: list[dict[str, float]] = []
    for _ in range(runs + 1):  # the first one fills caches
        floor = {"": cpu_seconds(place, "bare.py", "--version")}
        rounds.append(floor | {each: cpu_seconds(place, "ours.py", *each.split()) for each in COMMANDS})
    rounds = rounds[1:]
    print(f"median of {runs} rounds, CPU time             ms    ratio")
    for name in ("", *COMMANDS):
        ratios = sorted(each[name] / each[""] for each in rounds)
        milliseconds = statistics.median(each[name] for each in rounds) * 1000
        told = f"threadledger {name}" if name else "a bare click program"
        aim = f"({ratios[0]:.2f} to {ratios[-1]:.2f}); aim {COMMANDS[name]}" if name else ""
        print(f"{told:<34} {milliseconds:8.1f} {statistics.median(ratios):8.2f}    {aim}".rstrip())


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder, simulator_elsewhere() as url:
        place = Path(folder)
        measure(place, runs)
        modules, lines = run(place, "-c", ONE_QUESTION, url).split()
    print(f"lines loaded by open() and one question: {int(lines):,} in {modules} modules; aim {LINES_AIM:,}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
