"""Who waits for a conversation goes in the order of coming."""

import pytest

from threadledger.domain.exchange import Turns


@pytest.fixture
def turns():
    return Turns()


def test_the_first_goes_first_and_the_next_when_it_is_done(turns):
    first, second = turns.take("k"), turns.take("k")
    assert (turns.has_come("k", first), turns.has_come("k", second)) == (True, False)
    turns.give_back("k", first)
    assert turns.has_come("k", second)


def test_who_gives_up_waiting_holds_nobody_up(turns):
    first, second, third = turns.take("k"), turns.take("k"), turns.take("k")
    turns.give_back("k", second)
    turns.give_back("k", first)
    assert turns.has_come("k", third)


def test_conversations_do_not_wait_for_each_other(turns):
    turns.take("k")
    assert turns.has_come("other", turns.take("other"))


def test_nothing_is_kept_of_a_conversation_that_nobody_waits_for(turns):
    turns.give_back("k", turns.take("k"))
    assert turns._waiting == {}
