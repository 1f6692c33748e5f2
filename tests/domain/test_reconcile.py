"""What it takes to mend a thread: what is lacking, what is out of order, what is ours, and what is foreign."""

from collections import Counter
from functools import partial as fact

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.conversation import events as e
from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.replay import ReconcileItem
from threadledger.domain.replay.reconcile import decided, decided_again, without_thread
from threadledger.domain.threads import (
    Comparison,
    Drift,
    ThreadItem,
    ThreadState,
    Verification,
    adoptable,
    compare,
    drift_of,
    ours_of,
)
from threadledger.domain.threads.drift import Ours


def said(text, message_id="", item_id=None):
    return ThreadItem(
        "message", "user", text, message_id=message_id, item_id=f"i{text}" if item_id is None else item_id
    )


def called(call_id, item_id="ic"):
    return ThreadItem("tool_call", "look", "{}", call_id, item_id=item_id)


def returned(call_id, text="a cat", item_id="ir"):
    return ThreadItem("tool_result", "", text, call_id, item_id=item_id)


def journal_of(letters):
    return [said(letter, f"m{number}", "") for number, letter in enumerate(letters)]


def thread_of(letters):
    """As a Conversation is read: its entries bear no ids of ours."""
    return [said(letter, item_id=f"i{number}") for number, letter in enumerate(letters)]


def drift(journal, thread, ours=None):
    found = drift_of(journal_of(journal), thread_of(thread), ours or Ours())
    return found.lacking, found.moved, "".join(item.content for item in found.foreign)


class TestDrift:
    @pytest.mark.parametrize(
        ("journal", "thread", "lacking", "moved", "foreign"),
        [
            ("", "", 0, 0, ""),
            ("abc", "abc", 0, 0, ""),
            ("abc", "ab", 1, 0, ""),
            ("abc", "", 3, 0, ""),
            ("abc", "ac", 1, 1, ""),
            ("abc", "acb", 0, 1, ""),
            ("abc", "cab", 0, 1, ""),
            ("abc", "abcX", 0, 0, "X"),
            ("abc", "aXbc", 0, 0, "X"),
            ("abc", "XabYcZ", 0, 0, "XYZ"),
            ("abc", "abX", 1, 0, "X"),
            ("abc", "aXc", 1, 1, "X"),
            ("aab", "ab", 1, 1, ""),
            ("ab", "aab", 0, 0, "a"),
            ("aXb", "abX", 0, 1, ""),
        ],
    )
    def test_in_order_is_what_is_a_beginning_of_the_journal(self, journal, thread, lacking, moved, foreign):
        assert drift(journal, thread) == (lacking, moved, foreign)

    def test_where_entries_bear_our_ids_equal_texts_are_told_apart(self):
        journal = [said("ok", "m1"), said("ok", "m2")]
        foreign = said("ok", item_id="theirs")
        found = drift_of(journal, [foreign, *journal])
        assert (found.foreign, found.moved, found.lacking) == ((foreign,), 0, 0)

    def test_an_answer_that_a_run_wrote_there_itself_bears_no_id_and_is_ours_all_the_same(self):
        journal = [said("ask", "m1"), said("answer", "m2")]
        assert drift_of(journal, [said("ask", "m1"), said("answer")]) == Drift()

    def test_a_second_copy_that_bears_our_id_is_not_foreign(self):
        found = drift_of([said("a", "m1")], [said("a", "m1"), said("a", "m1")])
        assert (found.stale, found.foreign) == (1, ())

    def test_an_entry_of_ours_with_other_words_is_not_foreign(self):
        found = drift_of([said("a", "m1")], [said("changed", "m1")])
        assert (found.stale, found.lacking, found.foreign) == (1, 1, ())

    def test_what_memory_has_lost_is_not_foreign_by_its_id_or_as_often_as_it_was_lost(self):
        by_id = drift_of([], [said("secret", "m1")], Ours(message_ids=frozenset({"m1"})))
        assert (by_id.stale, by_id.foreign) == (1, ())
        by_text = drift_of([], thread_of("ss"), Ours(withdrawn=[said("s")]))
        assert (by_text.stale, [item.item_id for item in by_text.foreign]) == (1, ["i1"])

    def test_what_was_adopted_once_is_never_foreign_again(self):
        found = drift_of([], thread_of("X"), Ours(adopted=frozenset({"i0"})))
        assert (found.stale, found.foreign) == (1, ())

    def test_a_call_that_waits_for_its_result_is_ours_and_told(self):
        found = drift_of([], [called("c1")], Ours(calls=frozenset({"c1"}), waiting=frozenset({"c1"})))
        assert (found.waiting, found.stale, found.foreign) == (1, 0, ())

    def test_another_result_of_a_call_that_has_one_is_not_foreign(self):
        ours = Ours(calls=frozenset({"c1"}), results=frozenset({"c1"}))
        assert drift_of([], [called("c1"), returned("c1", "a dog")], ours).stale == 2

    def test_a_foreign_call_is_adopted_with_its_result(self):
        thread = [called("c9"), returned("c9")]
        assert drift_of([], thread).foreign == tuple(thread)

    def test_a_foreign_result_of_a_call_of_ours_is_adopted(self):
        assert drift_of([], [returned("c1")], Ours(calls=frozenset({"c1"}))).foreign == (returned("c1"),)

    @pytest.mark.parametrize(
        "entries",
        [
            [called("c9")],
            [returned("c9")],
            [returned("c9"), called("c9")],
            [said("  ")],
            [said("a", item_id="")],
            [ThreadItem("message", "critic", "hm", item_id="i1")],
            [ThreadItem("message", "tool", "hm", item_id="i1")],
            [said("half \ud800")],
        ],
        ids=["a call alone", "a result alone", "the wrong way round", "no words", "no id", "a role of its own",
             "a tool that was not called", "half a character"],
    )  # fmt: skip
    def test_what_memory_cannot_hold_is_told_and_never_adopted(self, entries):
        found = drift_of([], entries)
        assert (found.foreign, found.unfit) == ((), len(entries))

    def test_of_two_foreign_results_of_one_call_the_first_is_adopted(self):
        thread = [called("c9"), returned("c9", "one"), returned("c9", "two")]
        found = drift_of([], thread)
        assert (found.foreign, found.unfit) == (tuple(thread[:2]), 1)

    @for_all(st.text("abc", max_size=8), st.text("abcX", max_size=10))
    def test_every_entry_of_both_sides_is_accounted_for(self, journal, thread):
        lacking, moved, foreign = drift(journal, thread)
        held = Counter(journal) & Counter(thread)
        assert lacking == len(journal) - held.total()
        assert len(foreign) == len(thread) - held.total()
        assert Counter(foreign) == Counter(thread) - held
        assert moved <= held.total()

    @for_all(st.text("abc", max_size=8), st.text("abcX", max_size=10))
    def test_sending_what_is_lacking_leaves_the_journal_in_order_unless_something_was_moved(self, journal, thread):
        if not drift(journal, thread)[1]:
            left = Counter(thread)
            lacked = "".join(letter for letter in journal if not left[letter] or left.subtract(letter))
            mended = iter(thread + lacked)
            assert all(letter in mended for letter in journal)


class TestOurs:
    def test_all_that_was_ever_journaled_is_ours_and_what_was_lost_since_the_link_may_still_stand_there(self, log):
        journaled = fact(e.MessageJournaled, role="user")
        history = log(
            fact(e.ConversationStarted, key="k"),
            fact(journaled, message_id="m1", content="lost before"),
            fact(e.MessageRetracted, message_id="m1"),
            fact(e.ThreadLinked, backend="conversations", thread_id="t"),
            fact(journaled, message_id="m2", content="lost since"),
            fact(journaled, message_id="m3", content="kept"),
            fact(e.MessageRetracted, message_id="m2"),
        )
        ours, lost, memory = ours_of(history, 4, "adopted:conversations:t:")
        assert ours.message_ids == {"m1", "m2", "m3"}
        assert [each.message.text for each in lost] == ["lost since"]
        assert [each.message.text for each in memory.messages] == ["kept"]

    def test_calls_with_and_without_their_results_are_known(self, log):
        call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        history = log(
            fact(e.ConversationStarted, key="k"),
            fact(e.MessageJournaled, role="assistant", message_id="m1", tool_calls=[call]),
            fact(e.MessageJournaled, role="tool", message_id="m2", tool_call_id="c1", content="a cat"),
            fact(e.MessageJournaled, role="assistant", message_id="m3", tool_calls=[call | {"id": "c2"}]),
        )
        ours, _, _ = ours_of(history, 0, "adopted:")
        assert (ours.calls, ours.results, ours.waiting) == ({"c1", "c2"}, {"c1"}, {"c2"})

    def test_the_entries_that_were_adopted_from_this_thread_are_known_by_their_ids(self, log):
        history = log(
            fact(e.ConversationStarted, key="k"),
            fact(e.MessageJournaled, role="user", message_id="m1", idempotency_key="adopted:conversations:t:i7"),
            fact(e.MessageJournaled, role="user", message_id="m2", idempotency_key="adopted:conversations:other:i8"),
        )
        assert ours_of(history, 0, "adopted:conversations:t:")[0].adopted == {"i7"}


class TestAdoptable:
    def test_roles_calls_and_results_are_kept_and_calls_side_by_side_are_one_message(self):
        foreign = [
            ThreadItem("message", "developer", "be kind", item_id="i1"),
            ThreadItem("tool_call", "look", '{"at":1}', "c1", item_id="i2"),
            ThreadItem("tool_call", "look", '{"at":2}', "c2", item_id="i3"),
            returned("c1", "a cat", "i4"),
            returned("c2", "a dog", "i5"),
            ThreadItem("tool_call", "look", "{}", "c3", item_id="i6"),
        ]
        calls = (ToolCall("c1", "look", '{"at":1}'), ToolCall("c2", "look", '{"at":2}'))
        assert adoptable(foreign) == [
            (Message(Role.DEVELOPER, "be kind"), "i1"),
            (Message(Role.ASSISTANT, None, calls), "i2"),
            (Message(Role.TOOL, "a cat", tool_call_id="c1"), "i4"),
            (Message(Role.TOOL, "a dog", tool_call_id="c2"), "i5"),
            (Message(Role.ASSISTANT, None, (ToolCall("c3", "look", "{}"),)), "i6"),
        ]


def planned(journal, thread, adopt, ours=None):
    mine, theirs = journal_of(journal), thread_of(thread)
    found = drift_of(mine, theirs, ours or Ours())
    return decided(ReconcileItem("k", "conversations"), compare(mine, theirs), found, mine, theirs, adopt=adopt)


class TestDecided:
    @pytest.mark.parametrize(
        ("journal", "thread", "without", "adopting"),
        [
            ("ab", "ab", "none", "none"),
            ("abc", "ab", "send", "send"),
            ("abc", "ac", "rebuild", "rebuild"),
            ("ab", "ba", "rebuild", "rebuild"),
            ("ab", "abX", "none", "adopt"),
            ("ab", "aXb", "none", "adopt+rebuild"),
            ("abc", "abX", "send", "adopt+rebuild"),
            ("abc", "aXc", "rebuild", "adopt+rebuild"),
        ],
    )
    def test_what_is_done_follows_from_the_drift(self, journal, thread, without, adopting):
        assert planned(journal, thread, adopt=False).action == without
        assert planned(journal, thread, adopt=True).action == adopting

    @pytest.mark.parametrize(("journal", "thread"), [("ab", "ab"), ("ab", "abX")])
    def test_a_thread_that_needs_nothing_that_may_be_done_is_skipped(self, journal, thread):
        assert planned(journal, thread, adopt=False).state == "skipped"

    def test_what_is_foreign_is_told_with_both_ways_out(self):
        reason = planned("ab", "abX", adopt=False).reason
        assert "1 foreign entry" in reason
        assert "--adopt" in reason
        assert "rebuild --fresh" in reason

    def test_what_memory_cannot_hold_is_left_out_of_a_new_thread_where_adoption_was_asked_for(self):
        theirs = [said("a"), said(" ")]
        found = drift_of(journal_of("a"), theirs)
        item = ReconcileItem("k", "conversations")
        counts = compare(journal_of("a"), theirs)
        assert decided(item, counts, found, journal_of("a"), theirs, adopt=True).action == "rebuild"
        assert decided(item, counts, found, journal_of("a"), theirs, adopt=False).action == "none"

    def test_while_a_call_waits_for_its_result_nothing_is_done(self):
        item = decided(ReconcileItem("k", "c"), Comparison(ThreadState.DRIFTED), Drift(waiting=1), [], [], adopt=True)
        assert (item.state, item.in_the_way, item.action) == ("skipped", True, "none")

    def test_the_counts_are_those_of_verify(self):
        item = planned("abcd", "aXd", adopt=False)
        assert (item.missing, item.extra, item.different, item.foreign) == (1, 0, 1, 1)

    @pytest.mark.parametrize(
        ("left", "action"),
        [(Drift(), "adopt"), (Drift(moved=1), "adopt+rebuild"), (Drift(lacking=1), "adopt+send")],
    )
    def test_after_an_adoption_what_is_left_is_told_behind_it(self, left, action):
        assert decided_again(ReconcileItem("k", "conversations", action="adopt"), left).action == action

    @pytest.mark.parametrize(
        ("state", "journal", "action"),
        [(ThreadState.GONE, 2, "rebuild"), (ThreadState.UNLINKED, 2, "rebuild"), (ThreadState.UNLINKED, 0, "none")],
    )
    def test_where_no_thread_can_be_read_one_is_written_unless_there_is_nothing_to_write(self, state, journal, action):
        found = Verification("k", "conversations", None, Comparison(state, journal, missing=journal))
        item = without_thread(ReconcileItem("k", "conversations"), found)
        assert (item.action, item.missing) == (action, journal)
        assert (item.state == "planned") == (action == "rebuild")


def test_json_holds_all_but_what_only_a_plan_needs():
    assert list(ReconcileItem("k", "conversations").as_json()) == [
        *("key", "backend", "thread_id", "new_thread_id", "action", "missing", "extra", "different", "foreign"),
        *("sent", "adopted", "deleted", "answered", "state", "reason"),
    ]
