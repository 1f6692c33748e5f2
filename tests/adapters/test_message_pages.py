"""Pages of a conversation's messages from either end are slices of its memory, whatever was removed, edited or cleared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import product

import pytest
from freezegun import freeze_time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadledger.domain.conversation.events import MessageJournaled
from threadledger.domain.errors import InvalidInput, ThreadledgerError
from threadledger.domain.ids import new_id
from threadledger.domain.ledger import Ledger

CHANGES = st.lists(
    st.tuples(st.sampled_from(("say", "say", "say", "edit", "retract", "clear", "pin")), st.integers(0, 20)),
    max_size=25,
)
KEYS = iter(range(10**9))


def changed(ledger: Ledger, changes: list[tuple[str, int]]) -> str:
    """Return the key of a conversation after these changes; each names an earlier message by its number."""
    key = f"k{next(KEYS)}"
    chat = ledger.conversation(key)
    ids = [chat.append("user", "first").message_id]
    for what, number in changes:
        chosen = ids[number % len(ids)]
        try:
            match what:
                case "say":
                    ids.append(chat.append("user" if number % 2 else "assistant", f"{number}").message_id)
                case "edit":
                    ids.append(chat.edit(chosen, f"edited {number}").message_id)
                case "retract":
                    chat.retract(chosen)
                case "pin":
                    chat.pin(chosen)
                case "clear":
                    chat.clear()
        except (InvalidInput, ThreadledgerError):  # it is no longer in memory
            pass
    return key


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, st.integers(1, 4), st.booleans())
def test_a_page_is_a_slice_of_memory(
    open_any_store: Callable[[], Ledger], changes: list[tuple[str, int]], limit: int, newest_first: bool
) -> None:
    ledger = open_any_store()
    key = changed(ledger, changes)
    versions = [each.version for each in ledger.memory(key).messages]
    ordered = versions[::-1] if newest_first else versions
    lookups = ledger.journal.lookups(key)
    assert lookups is not None
    for after, before in product([None, *ordered], repeat=2):
        start = ordered.index(after) + 1 if after else 0
        end = ordered.index(before) if before else len(ordered)
        window = ordered[start:end]
        expected = window[-limit:] if before and not after else window[:limit]
        page, has_more = lookups.messages(
            lambda _: True, limit=limit, newest_first=newest_first, after=after, before=before
        )
        assert ([each.version for each in page], has_more) == (expected, len(window) > len(expected))


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_page_skips_what_is_not_wanted(open_any_store: Callable[[], Ledger], newest_first: bool) -> None:
    ledger = open_any_store()
    chat = ledger.conversation("k")
    chat.extend([{"role": role, "content": role} for role in ("user", "assistant") * 10])
    lookups = ledger.journal.lookups("k")
    assert lookups is not None
    page, has_more = lookups.messages(lambda it: it.role_name == "user", limit=4, newest_first=newest_first)
    assert ([each.role_name for each in page], has_more) == (["user"] * 4, True)


def test_an_event_is_found_by_the_time_of_its_id(open_any_store: Callable[[], Ledger]) -> None:
    ledger = open_any_store()
    chat = ledger.conversation("k")
    said = [chat.append("user", f"{number}") for number in range(30)]
    lookups = ledger.journal.lookups("k")
    assert lookups is not None
    for each in said:
        found = next(
            event for event in lookups.near(each.message_id) if getattr(event, "message_id", "") == each.message_id
        )
        assert found.originator_version == each.version
    assert list(lookups.near("msg_of_a_provider")) == []


def test_events_on_both_sides_of_the_time_of_an_id_are_found_in_their_order(
    open_any_store: Callable[[], Ledger],
) -> None:
    ledger = open_any_store()
    chat = ledger.conversation("k")
    with freeze_time("2026-11-30T12:00:00Z") as clock:
        before = chat.append("user", "before").message_id
        clock.tick(timedelta(milliseconds=1))
        made = new_id()
        clock.tick(timedelta(milliseconds=1))
        after = [chat.append("user", f"after {number}").message_id for number in range(3)]
        lookups = ledger.journal.lookups("k")
        assert lookups is not None
        found = [event.message_id for event in lookups.near(made) if isinstance(event, MessageJournaled)]
    assert found == [before, *after]


def test_there_is_nothing_to_look_up_in_a_deleted_conversation(open_any_store: Callable[[], Ledger]) -> None:
    ledger = open_any_store()
    ledger.conversation("k").append("user", "x")
    ledger.conversation("k").delete()
    assert ledger.journal.lookups("k") is None
    ledger.conversation("k").append("user", "again")
    lookups = ledger.journal.lookups("k")
    assert lookups is not None
    page, _ = lookups.messages(lambda _: True, limit=10, newest_first=False)
    assert [each.message.text for each in page] == ["again"]
