"""Measure the start of commands, in CPU time compared to a bare click program, and the lines loaded by a question.

python benchmarks/startup.py [runs]

Each round runs every command once, so that a slow moment of the machine affects all of them. A command reads a small
ledger, and a key is set. `append k` adds a message each time, to a conversation that has no thread; `append m` also sends it
to its thread at a simulator, which takes the openai SDK: it has no aim, and `import openai` shows the SDK's part. Times are
user and system time; ratios are comparable between machines, times are not. The last line counts the product's own lines
that a process has loaded after `threadledger.open()` and one question to a chat-only ledger, including blank lines and
docstrings.

Aims: `--version` takes at most 1.2 times a bare click program, the commands of every day at most 4 times, all others at
most 8 times; 14,200 lines.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from elsewhere import simulator_elsewhere

import threadledger

VERSION_AIM = 1.2
COMMAND_AIM = 4.0
OTHER_AIM = 8.0
LINES_AIM = 14_200

COMMANDS = {
    "--version": VERSION_AIM,
    "list": COMMAND_AIM,
    "show k": COMMAND_AIM,
    "events": COMMAND_AIM,
    "append k user hi": COMMAND_AIM,
    "audit failures": COMMAND_AIM,
    "audit show RUN": COMMAND_AIM,
    "db status": COMMAND_AIM,
    "audit summary": OTHER_AIM,
    "db check": OTHER_AIM,
    "config": OTHER_AIM,
    "doctor": OTHER_AIM,
    "export k": OTHER_AIM,
}
"""Commands with their aims; RUN stands for the id of the failed run."""

WITHOUT_THREADS = {"append k user hi": {"THREADLEDGER_THREADS": "none"}}
"""Additional environment of commands."""

MIRRORED = "append m user hi"
SDK = "import openai"

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


def run(place: Path, *arguments: str, more: Mapping[str, str] | None = None) -> str:
    # Modules are compiled once, in the first round, as in an installed package.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(place / "bytecode"),
        "OPENAI_API_KEY": "sk-none",
        "THREADLEDGER_DB": "sqlite:///threadledger.db",
        **(more or {}),
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    if done.returncode not in {0, 4}:  # 4: `doctor` has found something
        raise RuntimeError(f"{arguments} ended with {done.returncode}")
    return done.stdout


def seconds(place: Path, *arguments: str, more: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Return CPU and wall time."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(place, *arguments, more=more)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def write_ledger(url: str) -> str:
    """Write two conversations, so that each command has something to show; return the id of the failed run of one."""
    logging.getLogger("threadledger").setLevel(logging.CRITICAL)
    with threadledger.open(url) as ledger:
        ledger.conversation("k").append("user", "Where is my parcel?")
        try:
            with ledger.conversation("failed").run("own", "gpt-bench"):
                raise TimeoutError("the model did not answer")
        except TimeoutError:
            pass
        ledger.conversations()  # the views are up to date, except that each `append` is followed by a catch-up
        return ledger.failures()[0].run_id


def measure(place: Path, runs: int, simulator: str) -> None:
    (place / "bare.py").write_text(BARE)
    (place / "ours.py").write_text(OURS)
    run_id = write_ledger(f"sqlite:///{place / 'threadledger.db'}")
    rounds: list[dict[str, tuple[float, float]]] = []
    for _ in range(runs + 1):  # the first one fills caches
        taken = {"": seconds(place, "bare.py", "--version"), SDK: seconds(place, "-c", SDK)}
        for each in COMMANDS:
            arguments = each.replace("RUN", run_id).split()
            taken[each] = seconds(place, "ours.py", *arguments, more=WITHOUT_THREADS.get(each))
        taken[MIRRORED] = seconds(place, "ours.py", *MIRRORED.split(), more={"OPENAI_BASE_URL": simulator})
        rounds.append(taken)
    rounds = rounds[1:]
    print(f"{runs} rounds{'':24} CPU ms  best  ratio   range          wall ratio")
    for name in ("", *COMMANDS, MIRRORED, SDK):
        cpu = [each[name][0] for each in rounds]
        ratios, walls = (sorted(each[name][part] / each[""][part] for each in rounds) for part in (0, 1))
        shown = name if name == SDK else f"threadledger {name}" if name else "a bare click program"
        times = f"{statistics.median(cpu) * 1000:6.0f} {min(cpu) * 1000:6.0f} {statistics.median(ratios):6.2f}"
        aim = f"({ratios[0]:.2f} to {ratios[-1]:.2f}) {statistics.median(walls):8.2f}" if name else ""
        aim += f"; aim {COMMANDS[name]}" if name in COMMANDS else ""
        print(f"{shown:<32} {times}   {aim}".rstrip())


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder, simulator_elsewhere() as url:
        place = Path(folder)
        measure(place, runs, url)
        modules, lines = run(place, "-c", ONE_QUESTION, url).split()
    print(f"lines loaded by open() and one question: {int(lines):,} in {modules} modules; aim {LINES_AIM:,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=20, help="number of rounds (default 20)")
    main(parser.parse_args().runs)
