"""Keys and versions of a plan, packed: nothing is lost, and they are sorted however many there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.domain.replay import pinned
from threadledger.domain.replay.pinned import Pinned

KEYS = st.text(min_size=1, max_size=200) | st.sampled_from(["half \ud800 a character", "\udfff"])
"""Keys, also those that an old row may have."""

PAIRS = st.lists(st.tuples(KEYS, st.integers(0, 2**40)), max_size=30)


@given(PAIRS, st.integers(1, 7))
def test_packed_keys_are_sorted_and_complete(pairs: list[tuple[str, int]], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pinned, "SORTED_AT_ONCE", at_once)
        packed = Pinned.in_order(pairs)
    assert list(packed) == list(packed) == sorted(pairs)
    assert len(packed) == len(pairs)
    assert list(Pinned(pairs)) == pairs
