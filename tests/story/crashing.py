"""Performs one exchange in a process of its own and kills it (SIGKILL) at one point; or, with point `count`, goes through
and prints how often each point was passed. Run by `test_crash.py`:

    python crashing.py DB_URL BASE_URL SCENARIO POINT NUMBER before|after
"""

import json
import os
import signal
import sys
import warnings
from collections import Counter

from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.openai import AssistantsBackend, AssistantsThreads, ConversationThreads
from threadledger.adapters.sql import SqlMirrorHeads
from threadledger.adapters.sql.group import Group
from threadledger.domain import Asking

warnings.simplefilter("ignore")

POINTS = {
    "step": (Asking, "perform"),  # a step of the exchange
    "commit": (Group, "_commit"),  # a transaction of the log
    "claim": (SqlMirrorHeads, "claim"),  # a thread is taken for writing
    "note": (SqlMirrorHeads, "put"),  # how far a thread holds the journal
    "assistants thread": (AssistantsThreads, "create"),
    "assistants messages": (AssistantsThreads, "add"),
    "conversation": (ConversationThreads, "create"),
    "conversation items": (ConversationThreads, "add"),
    "run made": (AssistantsBackend, "_start"),
    "run followed": (AssistantsBackend, "_follow"),
}
SCENARIOS = {
    "fallback": {"backends": ("assistants", "chat"), "threads": "assistants"},
    "assistants": {"backends": ("assistants", "chat"), "threads": "assistants"},
    "responses": {"backends": ("responses", "chat"), "threads": "conversations"},
}


def settings_of(scenario, db_url, base_url):
    return load_settings(
        db=db_url, openai_base_url=base_url, openai_api_key="sk-test", retries=0, **SCENARIOS[scenario]
    )


def count_and_kill(point, number, moment):
    """Every point counts its passes; the one that was named kills the process at the pass that was named."""
    passed = Counter()
    for name, (owner, method) in POINTS.items():
        setattr(owner, method, _counting(getattr(owner, method), name, passed, (point, number, moment)))
    return passed


def _counting(function, name, passed, wanted):
    def counted(*args, **kwargs):
        passed[name] += 1
        mine = passed[name]
        if wanted == (name, mine, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if wanted == (name, mine, "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return counted


def main(db_url, base_url, scenario, point, number, moment):
    passed = count_and_kill(point, int(number), moment)
    with open_ledger(settings_of(scenario, db_url, base_url), wait=lambda _: None) as ledger:
        ledger.conversation("k").ask("hello")
    print(json.dumps(passed))


if __name__ == "__main__":
    main(*sys.argv[1:])
