"""Compare the run time of `threadledger --version` with a bare click program. Aim (CONTRACT): ratio at most 1.5.

python benchmarks/startup.py [runs]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AIM = 1.5

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


def seconds(program: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, program, "--version"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        bare, ours = Path(place, "bare.py"), Path(place, "ours.py")
        bare.write_text(BARE)
        ours.write_text(OURS)
        pairs = [(seconds(ours), seconds(bare)) for _ in range(runs + 1)][1:]
    ratios = sorted(mine / floor for mine, floor in pairs)
    print(f"threadledger --version  {statistics.median(mine for mine, _ in pairs) * 1000:7.1f} ms (median of {runs})")
    print(f"a bare click program    {statistics.median(floor for _, floor in pairs) * 1000:7.1f} ms")
    print(
        f"ratio                   {statistics.median(ratios):7.2f}    ({ratios[0]:.2f} to {ratios[-1]:.2f}); aim {AIM}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
