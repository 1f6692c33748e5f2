"""Kill a bulk rerun (SIGKILL) at random points and run it again: every exchange is paid for and answered once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.ledger import Ledger
from threadledger.domain.threads import ThreadState

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = [
    pytest.mark.crash,
    # The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
    pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning"),
]

SEED = 5
DRAWS = 40 if "THREADLEDGER_SOAK" in os.environ else 2
"""Number of random points for each backend."""

ROUTES = {
    "assistants": ("POST /threads/{thread_id}/runs", "assistants"),
    "responses": ("POST /responses", "conversations"),
    "chat": ("POST /chat/completions", "conversations"),
}
KEYS = ("a", "b", "c")


class Killer:
    """Run and kill bulk reruns against one simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        command = [sys.executable, str(Path(__file__).with_name("killed_rerun.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._points: dict[str, int] = {}

    def settings(self, kind: str, db_url: str) -> dict[str, Any]:
        provider = {"openai_base_url": self.simulator.base_url, "openai_api_key": "sk-test", "retries": 0}
        return {"db": db_url, "backends": [kind], "threads": ROUTES[kind][1], **provider}

    def opened(self, kind: str, db_url: str) -> Ledger:
        return open_ledger(load_settings(**self.settings(kind, db_url)), wait=lambda _: None)

    def points(self, kind: str, db_url: str) -> int:
        """Return the number of points that a bulk rerun passes without a kill."""
        if kind not in self._points:
            ended = self.rerun(kind, db_url.replace("ledger.db", "counted.db"), -1)
            assert ended["status"] == 0
            self._points[kind] = len(ended["points"])
        return self._points[kind]

    def rerun(self, kind: str, db_url: str, killed_at: int) -> dict[str, Any]:
        """Run a bulk rerun of conversations with unanswered questions."""
        self.simulator.reset()
        self.simulator.add_fault(ROUTES[kind][0], refuse={"status": 400}, times=len(KEYS))
        with self.opened(kind, db_url) as ledger:
            for key in KEYS:
                with pytest.raises(AllBackendsFailed):
                    ledger.conversation(key).ask("Where is it?")
        order = {"settings": self.settings(kind, db_url), "killed_at": killed_at}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        ended: dict[str, Any] = json.loads(self._process.stdout.readline())
        return ended

    def paid(self, kind: str) -> int:
        """Return how often a model answered; cancelled runs do not count."""
        if kind == "assistants":
            return sum(run["status"] == "completed" for run in self.simulator.provider.runs.values())
        template = ROUTES[kind][0]
        return sum(request.template == template and request.status == 200 for request in self.simulator.requests)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Simulator(seed=7, poll_after_ms=0) as simulator:
        killer = Killer(simulator)
        yield killer
        killer.close()


@pytest.mark.parametrize("kind", ROUTES)
@pytest.mark.parametrize("draw", range(DRAWS))
def test_a_bulk_rerun_that_is_killed_and_run_again_pays_for_no_exchange_twice(
    killer: Killer, db_url: str, kind: str, draw: int
) -> None:
    at = Random(f"{SEED} {kind} {draw}").randrange(killer.points(kind, db_url))
    print(f"{kind}: killed at {at}")
    assert killer.rerun(kind, db_url, at)["status"] == -signal.SIGKILL
    with killer.opened(kind, db_url) as ledger:
        again(ledger, killer.paid, kind)
        left = ledger.replay.plan_rerun(failed=True, include=["interrupted"]).apply()
        assert [item.state for item in left] == ["answered"] * len(left)
        for key in KEYS:
            ledger.conversation(key).append("user", "Thanks")  # an outdated thread catches up with the next message
            texts = [each.message.text for each in ledger.memory(key).messages]
            assert texts == ["Where is it?", "You said: Where is it?", "Thanks"]
        assert [found.found.state for found in ledger.replay.verify()] == [ThreadState.SAME] * len(KEYS)


def again(ledger: Ledger, paid: Callable[[str], int], kind: str) -> None:
    """Run the same bulk rerun again. An exchange may be skipped only where its answer cannot be found in a thread."""
    items = ledger.replay.plan_rerun(failed=True).apply()
    assert paid(kind) <= len(KEYS)
    skipped = [item for item in items if item.state == "skipped"]
    assert [item.state for item in items] == ["answered" if item not in skipped else "skipped" for item in items]
    assert [item.kind for item in skipped] in ([], [] if kind == "assistants" else ["interrupted"])
