"""Help the tests of the simulator: expect refusals, and wait for other threads."""

import openai
import pytest


def refused(call, *args, **kwargs):
    """Return the error with which a call is refused."""
    with pytest.raises(openai.APIStatusError) as caught:
        call(*args, **kwargs)
    return caught.value


def until(condition):
    """Poll a condition that another thread fulfils, up to a few thousand times."""
    assert any(condition() for _ in range(1_000_000))
