"""Test every fault at every step of an exchange, on every backend, blocking and async, streamed and not streamed.

Each time the invariants of the design must hold, the caller must get an answer or one error that names every failure,
and journal and thread must agree once the fault is over.

By default every (step, fault) is tested once, on one of the backends that have the step, in one of the modes. The whole
matrix tests each fault on each backend in each mode, at the first and second request, once and always, with another
writer in the thread, and with two equal questions. It takes about two hours:

    THREADLEDGER_WHOLE_MATRIX=1 pytest tests/story/test_fault_matrix.py
"""

import os
from itertools import groupby

import pytest

from .matrix import cells, dealt
from .playing import World

# The SDK warns at each Assistants call; test_settings.py checks that our own calls suppress the warning.
pytestmark = [
    # The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
    pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning"),
    pytest.mark.matrix,
]

WHOLE = not {"THREADLEDGER_SOAK", "THREADLEDGER_WHOLE_MATRIX"}.isdisjoint(os.environ)
"""Whether to run the whole matrix. Read once, because tests do not see the machine's settings."""

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
