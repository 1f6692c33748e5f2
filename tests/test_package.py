"""Test what `import threadledger` offers: every exception that a caller can catch, each loaded when it is first used."""

from __future__ import annotations

import inspect
import re

import pytest

import threadledger
from threadledger.domain import errors
from threadledger.domain.ledger import AsyncLedger, Chat, Ledger
from threadledger.domain.replay import Plan, Replay

ALL_ERRORS = {
    name
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, errors.ThreadledgerError)
}


def test_every_exception_is_at_the_top() -> None:
    assert set(threadledger.__all__) >= ALL_ERRORS
    assert all(getattr(threadledger, name) is getattr(errors, name) for name in ALL_ERRORS)


def test_every_error_that_a_docstring_names_can_be_caught_by_a_name_at_the_top() -> None:
    documented = [threadledger.open, threadledger.record, threadledger.recording]
    for kind in (Ledger, Chat, AsyncLedger, Replay, Plan):
        documented += [member for _, member in inspect.getmembers(kind, inspect.isfunction)]
    named = set()
    for each in documented:
        _, _, raises = (each.__doc__ or "").partition("Raises:\n")
        for line in re.findall(r"^ *([A-Z]\w+(?:, [A-Z]\w+)*): ", raises, re.MULTILINE):
            named |= set(line.split(", "))
    assert len(named) > 10
    assert named <= set(threadledger.__all__)


def test_dir_lists_what_is_public_and_every_name_can_be_loaded() -> None:
    assert dir(threadledger) == sorted(threadledger.__all__)
    assert [name for name in threadledger.__all__ if getattr(threadledger, name, None) is None] == []
    with pytest.raises(AttributeError, match="threadledger has no 'Nothing'"):
        _ = threadledger.Nothing
