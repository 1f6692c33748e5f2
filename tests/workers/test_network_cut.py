"""Cut a worker from the network while it writes threads: others take over within the lease, and nothing is doubled."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from threadledger.adapters import Simulator, load_settings, open_ledger
from threadledger.domain.ledger import lags_among
from threadledger.domain.threads import ThreadState

from .network_cut import Namespace, namespace
from .performing import wait_until
from .worker_processes import WorkerProcesses

pytestmark = pytest.mark.crash

SOAK = "THREADLEDGER_SOAK" in os.environ
CONVERSATIONS = 400 if SOAK else 30
CUT_SECONDS = 40.0 if SOAK else 0.0
"""How long the worker is cut off at least; it is until others have done everything, which takes longer than its claims last."""


@pytest.fixture
def net() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def test_what_a_worker_was_doing_when_its_network_was_cut_is_done_once_by_others(
    net: Namespace, postgres_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"db": postgres_url, "openai_api_key": "sk-test", "mirror_by": "worker"}
    url = make_url(postgres_url)
    host, port = net.reach(f"{url.query['host']}/.s.PGSQL.5432")
    inside = url.difference_update_query(["host"]).set(host=host, port=port).render_as_string(hide_password=False)
    provider = net.reach(("127.0.0.1", int(simulator.base_url.rpartition(":")[2].partition("/")[0])))
    common = {"OPENAI_API_KEY": "sk-test", "THREADLEDGER_MIRROR_BY": "worker"}
    base_url = f"http://{provider[0]}:{provider[1]}/v1"  # for all: two names of one provider would be two endpoints
    settings["openai_base_url"] = base_url
    here = WorkerProcesses(
        common | {"THREADLEDGER_DB": postgres_url, "OPENAI_BASE_URL": base_url}, tmp_path / "here.log"
    )
    cut = WorkerProcesses(
        common | {"THREADLEDGER_DB": inside, "OPENAI_BASE_URL": base_url}, tmp_path / "cut.log", net.name
    )
    try:
        with open_ledger(load_settings(**settings)) as ledger:
            simulator.add_fault("*", slow=0.05, times=None)
            cut.start("--concurrency", "4")
            wait_until(lambda: len(ledger.journal.worker_notes.workers()) == 1)
            keys = [f"k{number}" for number in range(CONVERSATIONS)]
            for key in keys:
                ledger.conversation(key).append("user", f"{key} first")
            wait_until(lambda: any(state.links for _, state in ledger.journal.states_of(keys)))
            net.cut()
            cut_at = time.monotonic()
            here.start("--concurrency", "4")
            wait_until(lambda: behind(ledger, keys) == 0, 120)
            for key in keys:
                ledger.conversation(key).append("user", f"{key} second")
            wait_until(lambda: behind(ledger, keys) == 0, 120)
            wait_until(lambda: time.monotonic() - cut_at >= CUT_SECONDS, CUT_SECONDS + 10)
            net.join()  # what it had sent arrives now, and it works on
            for key in keys:
                ledger.conversation(key).append("user", f"{key} third")
            wait_until(lambda: behind(ledger, keys) == 0, 120)
            # A request that the cut worker had sent may arrive only now: its copy is found and deleted.
            wait_until(lambda: states_of(ledger, keys) == {ThreadState.SAME: CONVERSATIONS}, 60)
    except BaseException:
        for name in ("here", "cut"):
            print(name, (tmp_path / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-4_000:])
        raise
    finally:
        here.close()
        cut.close()


def behind(ledger: Any, keys: list[str]) -> int:
    lags = lags_among(ledger.journal, ledger.services, keys)
    return len(lags.threads) + len(lags.held_keys)


def states_of(ledger: Any, keys: list[str]) -> Counter[ThreadState]:
    return Counter(each.found.state for each in ledger.replay.verify(keys))
