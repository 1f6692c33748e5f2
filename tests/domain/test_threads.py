"""A thread against the journal, and how it is brought up to it."""

from dataclasses import replace

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.effects import perform
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Failure
from threadledger.domain.threads import (
    Comparison,
    Doubt,
    ThreadItem,
    ThreadState,
    ThreadView,
    bring_up,
    compare,
    digest,
)
from threadledger.domain.threads.delivery import lacking


def items(letters):
    return [ThreadItem("message", "user", letter) for letter in letters]


class TestView:
    """`a` and `b` are to be in the thread, the calls `x` and `y` wait for their results."""

    @pytest.mark.parametrize(
        ("thread", "held", "exact"),
        [
            ("", "ab", True),
            ("ab", "ab", True),
            ("abx", "abx", False),
            ("abxy", "abxy", False),
            ("abxyz", "abxy", False),
            ("abz", "ab", True),
            ("abzx", "ab", False),
            ("ax", "ab", False),
        ],
    )
    def test_a_thread_may_end_with_the_calls_that_wait(self, thread, held, exact):
        view = ThreadView(items("ab"), version=3, waiting=items("xy"), held_back=4)
        assert "".join(each.content for each in view.held_by(items(thread))) == held
        assert view.is_exact(items(thread)) is exact

    def test_a_thread_is_read_again_if_an_older_message_is_not_sent_yet(self):
        view = ThreadView(items("ab"), version=5, waiting=items("x"), held_back=4)
        assert not view.is_exact()
        assert ThreadView(items("ab"), version=5).is_exact(items("ab"))


class TestCompare:
    @pytest.mark.parametrize(
        ("journal", "thread", "found"),
        [
            ("", "", Comparison(ThreadState.SAME)),
            ("abc", "abc", Comparison(ThreadState.SAME, 3, 3)),
            ("abc", "ab", Comparison(ThreadState.BEHIND, 3, 2, missing=1)),
            ("abc", "", Comparison(ThreadState.BEHIND, 3, 0, missing=3)),
            ("ab", "abc", Comparison(ThreadState.DRIFTED, 2, 3, extra=1)),
            ("", "a", Comparison(ThreadState.DRIFTED, 0, 1, extra=1)),
            ("abc", "abb", Comparison(ThreadState.DRIFTED, 3, 3, different=1)),
            ("abc", "ac", Comparison(ThreadState.DRIFTED, 3, 2, missing=1)),
            ("abc", "aabc", Comparison(ThreadState.DRIFTED, 3, 4, extra=1)),
            ("abcd", "axd", Comparison(ThreadState.DRIFTED, 4, 3, different=1, missing=1)),
        ],
    )
    def test_the_difference_is_counted(self, journal, thread, found):
        assert compare(items(journal), items(thread)) == found

    def test_two_equal_texts_are_two_items(self):
        assert compare(items("aa"), items("a")).missing == 1

    @pytest.mark.parametrize(
        "other",
        [
            ThreadItem("message", "assistant", "a", "c"),
            ThreadItem("tool_result", "user", "a", "c"),
            ThreadItem("message", "user", "b", "c"),
            ThreadItem("message", "user", "a", "d"),
        ],
    )
    def test_kind_name_content_and_call_are_compared(self, other):
        assert compare([ThreadItem("message", "user", "a", "c")], [other]).different == 1

    def test_ids_versions_and_the_providers_form_are_not_compared(self):
        ours = ThreadItem("message", "user", "a", message_id="m1", version=3)
        theirs = ThreadItem("message", "user", "a", payload={"id": "msg_1"})
        assert compare([ours], [theirs]).state is ThreadState.SAME

    @for_all(st.text("abc", max_size=12), st.text("abc", max_size=12))
    def test_what_is_not_missing_or_different_is_in_the_thread(self, journal, thread):
        found = compare(items(journal), items(thread))
        assert found.journal - found.missing == found.thread - found.extra
        assert min(found.missing, found.extra, found.different) >= 0
        assert (found.state is ThreadState.SAME) == (journal == thread)
        assert (found.state is ThreadState.BEHIND) == (journal != thread and journal.startswith(thread))


class TestDigest:
    def test_order_and_content_count(self):
        assert len({digest(items(each)) for each in ("", "a", "ab", "ba", "aa")}) == 5
        assert digest(items("ab")) == digest(items("ab"))

    def test_equal_items_have_equal_digests_whatever_their_ids(self):
        assert digest([ThreadItem("message", "user", "a", message_id="m1")]) == digest(items("a"))

    def test_what_stands_in_which_field_counts(self):
        assert digest([ThreadItem("message", "ab", "c")]) != digest([ThreadItem("message", "a", "bc")])


class TestLacking:
    @pytest.mark.parametrize(
        ("journal", "thread", "lacked"),
        [
            ("abc", "", "abc"),
            ("abc", "ab", "c"),
            ("abc", "xaxb", "c"),
            ("abc", "bc", "a"),
            ("abc", "cba", ""),
            ("aab", "a", "ab"),
            ("ab", "aab", ""),
            ("", "a", ""),
        ],
    )
    def test_what_the_thread_holds_in_whatever_place_is_not_lacked_and_each_copy_counts_once(
        self, journal, thread, lacked
    ):
        assert lacking(items(journal), items(thread)) == items(lacked)


class Thread:
    """A thread whose writes may fail: before they land, or after, when the answer is lost."""

    batch = 20

    def __init__(self, held="", *faults):
        self.held = items(held)
        self.faults = list(faults)
        self.reads = 0

    def read(self, thread_id):
        self.reads += 1
        return list(self.held)
        yield

    def add(self, thread_id, given):
        landed, failure = self.faults.pop(0) if self.faults else (len(given), None)
        self.held += given[:landed]
        if failure is not None:
            raise ProviderRefused(failure)
        return
        yield

    def delete(self, thread_id, given):
        raise AssertionError("nothing lands late here, so nothing may be taken out")
        yield

    @property
    def letters(self):
        return "".join(item.content for item in self.held)


LOST = Failure("error", details={"exception": "APIConnectionError"})
WRONG_KEY = Failure("error", http_status=401)
MISSING = Failure("error", http_status=404, message="No thread found with id 't'.", thread_id="t")


@pytest.fixture
def waited():
    return []


def brought_up(thread, letters, wait, **known):
    return perform(bring_up(thread, "t", items(letters), **known), wait)


class TestBringUp:
    @pytest.mark.parametrize(("held", "sent"), [("", 4), ("ab", 2), ("abcd", 0), ("xa", 3)])
    def test_what_the_thread_lacks_is_sent_in_order(self, waited, held, sent):
        thread = Thread(held)
        assert brought_up(thread, "abcd", waited.append).sent == sent
        assert thread.letters == held + "abcd"[4 - sent :]
        assert waited == []

    def test_a_thread_that_is_known_is_not_read(self, waited):
        thread = Thread("ab")
        assert brought_up(thread, "abc", waited.append, held=items("ab")).sent == 1
        assert thread.reads == 0

    @pytest.mark.parametrize("landed", range(5))
    def test_after_a_lost_answer_the_thread_is_read_and_once_more_where_something_was_sent_again(self, waited, landed):
        thread = Thread("", (landed, LOST))
        assert brought_up(thread, "aaaa", waited.append, held=()).sent == 4
        assert thread.letters == "aaaa"
        assert thread.reads == (1 if landed == 4 else 2)
        assert len(waited) == 1

    def test_what_was_sent_again_after_a_lost_answer_may_still_land_and_is_told(self, waited):
        doubts = brought_up(Thread("", (0, LOST)), "ab", waited.append, held=()).doubts
        assert [(len(doubt.items), doubt.again) for doubt in doubts] == [(2, True)]

    def test_what_was_found_in_the_thread_after_a_lost_answer_is_in_doubt_no_more(self, waited):
        assert brought_up(Thread("", (2, LOST)), "ab", waited.append, held=()).doubts == ()

    def test_what_a_writer_that_stopped_in_the_middle_may_have_sent_is_in_doubt(self, waited):
        doubts = brought_up(Thread("a"), "ab", waited.append, unclean=True).doubts
        assert [(len(doubt.items), doubt.again) for doubt in doubts] == [(1, True)]

    def test_a_late_copy_that_is_provably_ours_is_taken_out_and_told(self, waited):
        class Late(Thread):
            def delete(self, thread_id, given):
                self.held = [each for each in self.held if each not in given or each.item_id not in {"late"}]
                return
                yield

        ours = [ThreadItem("message", "user", letter, message_id=letter) for letter in "ab"]
        thread = Late()
        thread.held = [ours[0], replace(ours[0], item_id="late"), ours[1]]
        delivered = perform(bring_up(thread, "t", ours, doubts=[Doubt.of(ours[:1], "2026-11-22T12:00:00Z")]))
        assert (delivered.sent, delivered.deleted, thread.letters) == (0, ("late",), "ab")

    def test_a_refusal_for_good_is_raised_at_once(self, waited):
        with pytest.raises(ProviderRefused):
            brought_up(Thread("", (0, WRONG_KEY)), "a", waited.append)
        assert waited == []

    def test_a_thread_that_is_gone_is_not_tried_again(self, waited):
        with pytest.raises(ProviderRefused):
            brought_up(Thread("", (0, MISSING)), "a", waited.append)
        assert waited == []

    def test_without_any_progress_it_is_given_up(self, waited):
        with pytest.raises(ProviderRefused):
            brought_up(Thread("", *[(0, LOST)] * 50), "a", waited.append)
        assert len(waited) == 5

    def test_as_long_as_it_gets_further_it_goes_on(self, waited):
        thread = Thread("", *[(1, LOST)] * 20)
        assert brought_up(thread, "a" * 20, waited.append).sent == 20
        assert thread.letters == "a" * 20

    def test_a_provider_that_asks_for_hours_does_not_hold_the_delivery_up_for_hours(self, waited):
        hours = Failure("error", code="rate_limit_exceeded", http_status=429, retry_after_seconds=7_200.0)
        try:
            brought_up(Thread("", (0, hours)), "a", waited.append)
        except ProviderRefused:
            assert waited == []
        assert max(waited, default=0) <= 30

    @for_all(
        st.text("ab", max_size=8),
        st.text("abx", max_size=4),
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from([LOST, LOST, None])), max_size=6),
    )
    def test_whatever_is_lost_on_the_way_nothing_is_doubled_or_swapped(self, journal, held, faults):
        thread = Thread(held, *[(landed, LOST) for landed, failure in faults if failure])
        lacked = "".join(item.content for item in lacking(items(journal), thread.held))
        try:
            brought_up(thread, journal, lambda seconds: None)
        except ProviderRefused:
            pass
        else:
            assert lacking(items(journal), thread.held) == []
        assert thread.letters.startswith(held)
        assert lacked.startswith(thread.letters[len(held) :])


class Stale(Thread):
    """A thread that takes what is written and never shows it."""

    def __init__(self):
        super().__init__()
        self.writes = 0

    def add(self, thread_id, given):
        self.writes += 1
        return
        yield


def test_a_thread_that_never_shows_what_was_written_is_not_written_to_for_ever():
    thread, doubt = Stale(), Doubt.of(items("a"), "2026-11-22T12:00:00.000000Z", whole=True)
    with pytest.raises(ProviderRefused, match="does not show what was written"):
        perform(bring_up(thread, "t", items("a"), doubts=(doubt,)), lambda seconds: None)
    assert thread.writes < 20
