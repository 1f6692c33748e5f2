"""Run a bulk rerun in a separate process that is killed (SIGKILL) at one point.

Started by `test_killed_rerun.py`; reads orders like `crashing.py` and forks for each.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
import warnings
from typing import Any

from crashing import Behind, Points

from threadledger.adapters import load_settings, open_ledger
from threadledger.domain import ids
from threadledger.domain.exchange import runs


def rerun(order: dict[str, Any]) -> list[str]:
    """Rerun all failed exchanges, and return the points that were passed."""
    points = Points(order["killed_at"])
    points.watch()
    ids.datetime = Behind  # type: ignore[misc] # so that all deadlines have passed for the next process
    runs.INTERRUPT_LOOK_SECONDS = math.inf
    with open_ledger(load_settings(**order["settings"]), wait=lambda _: None) as ledger:
        ledger.replay.plan_rerun(failed=True).apply()
    return points.passed


def forked(order: dict[str, Any]) -> dict[str, Any]:
    """Run an order in a child; return its exit status (negative: signal) and the points that it passed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, json.dumps(rerun(order)).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - the child ends here after any error
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    _, status = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(status), "points": json.loads(text or "[]")}


def main() -> None:
    """Answer each order with one line.

    Modules that are imported on first use are imported by every child, so a kill costs that import but no process
    start.
    """
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
