"""Every exchange ends well: every fault at every step of an exchange, on every backend, blocking and awaited, streamed and
not. After each: the invariants of the design hold, the caller has an answer or one error that names every failure, and
journal and thread agree once the fault is over.

Here every (backend, step, fault) comes once, in one of the modes. All of it, each fault in each mode, at the first and the
second time, once and for ever, with somebody else in the thread and with two equal questions, takes about two hours:

    THREADLEDGER_WHOLE_MATRIX=1 pytest tests/story/test_fault_matrix.py
"""

import os
from itertools import groupby

import pytest

from .matrix import cells, dealt
from .playing import World

# The SDK warns at each call for assistants; that our own calls are quiet is proved in test_settings.py.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning"),
    pytest.mark.matrix,
]

WHOLE = "THREADLEDGER_WHOLE_MATRIX" in os.environ
"""Read once: no test sees a setting of the machine."""

STEPS = {
    f"{backend}: {step}": list(group)
    for (backend, step), group in groupby(cells() if WHOLE else dealt(), lambda cell: (cell.setup.name, cell.route))
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("matrix")) as running:
        yield running


@pytest.mark.parametrize("step", STEPS)
def test_an_exchange_ends_well_whatever_goes_wrong_at(step, world):
    wrong = {cell.id: found for cell in STEPS[step] if (found := world.problems(cell))}
    assert not wrong
