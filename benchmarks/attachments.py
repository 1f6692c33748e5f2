"""Measure what a large file costs that is asked about again and again.

python benchmarks/attachments.py [--megabytes 40] [--questions 20] [--backend responses]

Two processes ask the same questions in one conversation each: one attaches the file to every question, the other asks without
it. The provider is the simulator in a process of its own. Printed are the number of uploads, how much the database grew, and
the peak memory of both processes.

Aims: one upload; the database grows by the size of the file once; at most 20 MiB more memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from elsewhere import simulator_elsewhere

import threadledger

MEMORY_AIM_MIB = 20.0
MIB = 1024 * 1024


def main() -> int:
    """Measure, or ask the questions as the measured process."""
    options = _options()
    if options.ask is not None:
        return _ask(options.ask, options.questions, options.backend, options.file)
    with tempfile.TemporaryDirectory() as place, simulator_elsewhere() as provider:
        os.environ |= {"OPENAI_BASE_URL": provider, "OPENAI_API_KEY": "k", "THREADLEDGER_THREADS": "none"}
        file = Path(place) / "large.pdf"
        file.write_bytes(b"%PDF-1.7\n" + os.urandom(int(options.megabytes * MIB)))
        found = {}
        for name, attached in (("without", None), ("with", file)):
            url = f"sqlite:///{place}/{name}.db"
            command = [sys.executable, __file__, "--ask", url, "--questions", str(options.questions)]
            command += ["--backend", options.backend, *(["--file", str(attached)] if attached else [])]
            found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        grown = (found["with"]["bytes"] - found["without"]["bytes"]) / file.stat().st_size
        more = (found["with"]["peak"] - found["without"]["peak"]) / MIB
    print(f"{options.questions} questions about {options.megabytes:g} MiB on {options.backend}")
    print(f"uploads                 {found['with']['uploads']}")
    print(f"database grew by        {grown:.3f} times the file")
    print(f"peak memory             {found['with']['peak'] / MIB:.1f} MiB, {more:+.1f} MiB (aim: {MEMORY_AIM_MIB:g})")
    return int(found["with"]["uploads"] != 1 or more > MEMORY_AIM_MIB)


def _ask(url: str, questions: int, backend: str, file: Path | None) -> int:
    with threadledger.open(url, backends=(backend,), openai_model="gpt-5.5") as ledger:
        chat = ledger.conversation("k")
        for number in range(questions):
            text = f"Question {number}: what does it say?"
            parts = [{"type": "text", "text": text}, ledger.attach(file)] if file is not None else text
            chat.ask(parts)
        uploads = len(ledger.uploads())
    size = sum(each.stat().st_size for each in Path(url.removeprefix("sqlite:///")).parent.glob(f"{Path(url).name}*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"uploads": uploads, "bytes": size, "peak": peak}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=40.0, help="size of the file in MiB")
    parser.add_argument("--questions", type=int, default=20, help="how often it is asked about")
    parser.add_argument("--backend", default="responses", help="a built-in backend: responses or chat")
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
