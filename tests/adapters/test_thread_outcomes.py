"""What is noted of threads is kept outside the schema, and a list of threads is read with it, on each database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from threadledger.domain.conversation import ThreadLink
from threadledger.domain.journal.outcomes import note_outcome
from threadledger.domain.ledger import Ledger

HERE = "http://here"


@pytest.fixture
def ledger(open_any_store: Callable[[], Ledger]) -> Ledger:
    found = open_any_store()
    for key in ("a", "b", "c", "d"):
        found.conversation(key).append("user", "Where is it?")
        found.journal.commit(key, lambda it, key=key: it.link_thread("conversations", f"conv_{key}", HERE))
    found.conversation("unlinked").append("user", "Where is it?")
    return found


def note(ledger: Ledger, key: str, state: str, *, mirror: str = "conversations", **other: str) -> None:
    link = ThreadLink(**({"thread_id": f"conv_{key}", "endpoint": HERE} | other))
    note_outcome(ledger.journal, key, mirror, link, state, ledger.state(key).version)


def states(ledger: Ledger, **filters: Any) -> dict[str, str | None]:
    return {each.key: each.state for each in ledger.threads(**filters)}


def test_threads_without_notes_are_listed_newest_conversation_first(ledger: Ledger) -> None:
    assert list(states(ledger).items()) == [("d", None), ("c", None), ("b", None), ("a", None)]
    assert states(ledger, state="same") == {}


def test_the_last_outcome_of_a_thread_counts_and_each_state_is_a_filter(ledger: Ledger) -> None:
    for key, state in {"a": "gone", "b": "drifted", "c": "unlinked"}.items():
        note(ledger, key, "same")
        note(ledger, key, state)
    assert states(ledger) == {"a": "gone", "b": "drifted", "c": "unlinked", "d": None}
    assert states(ledger, state="gone") == {"a": "gone"}
    assert states(ledger, state="drifted") == {"b": "drifted"}
    assert states(ledger, state="unlinked") == {"c": "unlinked"}
    assert states(ledger, state="drifted", key="a") == {}


def test_an_append_makes_a_thread_behind_among_those_that_were_found_behind(ledger: Ledger) -> None:
    for key, state in {"a": "same", "b": "behind", "c": "same", "d": "same"}.items():
        note(ledger, key, state)
    for key in ("a", "d"):
        ledger.conversation(key).append("user", "Hello?")
    ledger.conversation("c").describe(title="No message")
    assert states(ledger, state="behind") == {"a": "behind", "b": "behind", "d": "behind"}
    assert states(ledger, state="same") == {"c": "same"}
    page = ledger.threads(state="behind", limit=2)
    assert [each.key for each in page] == ["d", "b"]
    rest = ledger.threads(state="behind", limit=2, after=page.cursor)
    assert ([each.key for each in rest], rest.cursor) == (["a"], None)


def test_a_new_link_clears_the_outcome(ledger: Ledger) -> None:
    note(ledger, "a", "drifted")
    ledger.journal.commit("a", lambda it: it.link_thread("conversations", "conv_new", HERE))
    note(ledger, "b", "drifted", endpoint="http://elsewhere")
    assert states(ledger) == dict.fromkeys("dcba")
    assert states(ledger, state="drifted") == {}


@pytest.mark.parametrize("state", [None, "same"])
def test_a_page_reads_as_many_conversations_as_it_has_items(
    ledger: Ledger, state: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in "abcd":
        note(ledger, key, "same")
    upkeep, read = ledger.journal.upkeep, []
    noted_streams = upkeep.noted_streams

    def counted(*args: Any, **named: Any) -> Any:
        found = noted_streams(*args, **named)
        read.extend(each.head.stream for each in found)
        return found

    monkeypatch.setattr(upkeep, "noted_streams", counted)
    first = ledger.threads(state=state, limit=1)
    second = ledger.threads(state=state, limit=1, after=first.cursor)
    assert [each.key for each in [*first, *second]] == ["d", "c"]
    assert len(read) <= 2 * (1 + 2), "each page reads the last one of the page before and one more"


def test_two_threads_of_a_conversation_have_their_own_outcomes(ledger: Ledger) -> None:
    for key in ("a", "b"):
        ledger.journal.commit(key, lambda it: it.link_thread("assistants", "thread_1", HERE))
        note(ledger, key, "gone", mirror="assistants", thread_id="thread_1")
        note(ledger, key, "gone")
    found = [(each.key, each.backend) for each in ledger.threads(state="gone")]
    assert found == [("b", "assistants"), ("b", "conversations"), ("a", "assistants"), ("a", "conversations")]
    pages, after = [], None
    while True:
        page = ledger.threads(state="gone", limit=1, after=after)
        pages += [(each.key, each.backend) for each in page]
        if (after := page.cursor) is None:
            break
    assert pages == found


def test_notes_are_no_part_of_a_copy_and_no_finding_of_a_check(ledger: Ledger, tmp_path: Any) -> None:
    note(ledger, "a", "same")
    assert list(ledger.check()) == []
    ledger.copy_to(f"sqlite:///{tmp_path}/copy.db")
    import threadledger

    with threadledger.open(f"sqlite:///{tmp_path}/copy.db", threads="none") as copy:
        assert states(copy) == dict.fromkeys("dcba")


def test_an_outcome_of_a_state_that_is_not_known_here_is_none(ledger: Ledger) -> None:
    note(ledger, "a", "from_a_newer_version")
    assert states(ledger, key="a") == {"a": None}
