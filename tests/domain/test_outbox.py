"""Test what the outbox decides about a thread that was read back, and what a run asked last in it."""

import pytest

from threadledger.domain.conversation.messages import Message, Role, ToolCall
from threadledger.domain.threads import Doubt, MirrorHead, PreparedThread, ThreadItem
from threadledger.domain.threads.linked_thread import late_copies, left_behind, said_behind, sent_before


def item(text, name="user", version=0, message_id=""):
    return ThreadItem("message", name, text, version=version, message_id=message_id)


def items(texts):
    """One item for each letter; a small letter is the model's."""
    return [item(each, "assistant" if each.islower() else "user", version) for version, each in enumerate(texts, 2)]


def words(found):
    return "".join(each.content for each in found)


CALL = Message(Role.ASSISTANT, "", (ToolCall("c1", "look", "{}"),))
RESULT = Message(Role.TOOL, "a cat", tool_call_id="c1")


class TestTheInputOfTheLatestRequest:
    @pytest.fixture
    def prepared(self):
        return PreparedThread("k", "assistants", "x1", "r1", "thread_1", unsent=items("A"))

    def test_is_what_the_thread_was_missing(self, prepared):
        assert words(prepared.last_input()) == "A"

    def test_is_the_results_after_tool_calls(self, prepared):
        (last,) = prepared.after_tools([CALL, RESULT]).last_input()
        assert (last.kind, last.content, last.call_id) == ("tool_result", "a cat", "c1")

    def test_is_only_the_results_of_the_newest_tool_calls(self, prepared):
        newest = Message(Role.TOOL, "a dog", tool_call_id="c2")
        assert words(prepared.after_tools([RESULT]).after_tools([newest]).last_input()) == "a dog"

    def test_is_what_was_missing_if_nothing_was_called(self, prepared):
        assert words(prepared.after_tools([CALL]).last_input()) == "A"

    def test_is_the_results_where_the_output_of_an_earlier_run_is_used(self):
        prepared = PreparedThread("k", "assistants", "x1", "r1", "thread_1", found=items("b"))
        assert words(prepared.after_tools([RESULT]).last_input()) == "a cat"

    def test_is_unknown_if_the_provider_was_sent_nothing_with_the_request(self):
        prepared = PreparedThread("k", "assistants", "x1", "r1", "thread_1")
        assert prepared.after_tools([RESULT]).last_input() == ()


class TestWhatOurWritesMayHavePutIntoAThread:
    def test_is_everything_up_to_its_head(self):
        assert words(sent_before(items("AbC"), MirrorHead("t", 3, settled=False))) == "Ab"

    def test_is_everything_up_to_the_newest_item_in_doubt(self):
        journal = items("AbC")
        doubt = Doubt.of(journal[2:], "")
        assert words(sent_before(journal, MirrorHead("t", 2, settled=False, doubts=(doubt,)))) == "AbC"

    def test_is_everything_if_its_writer_stopped_in_the_middle(self):
        assert words(sent_before(items("AbC"), MirrorHead("t", 2, settled=False, left_by="x1"))) == "AbC"


class TestOutputOfRuns:
    @pytest.mark.parametrize(
        ("journal", "thread", "found"),
        [
            ("A", "Ab", "b"),
            ("A", "Abc", "bc"),
            ("A", "A", ""),
            ("A", "AbC", ""),
            ("Ab", "Ac", ""),
            ("AB", "A", ""),
            ("AB", "Axc", ""),
        ],
    )
    def test_follows_the_last_journaled_item_and_nothing_else_follows(self, journal, thread, found):
        assert words(said_behind(items(journal), items(thread))) == found

    @pytest.mark.parametrize(
        ("journal", "thread", "asked", "left"),
        [
            ("AC", "Ab", "A", "b"),
            ("A", "Ab", "A", ""),
            ("AC", "Ab", "C", ""),
            ("AC", "AbC", "A", ""),
            ("AC", "Ab", "", ""),
        ],
    )
    def test_is_left_behind_if_the_journal_continues_with_something_else(self, journal, thread, asked, left):
        doubt = Doubt.of(items(asked), "", asked=True)
        assert words(left_behind(items(journal), items(thread), [doubt])) == left

    def test_is_not_left_behind_by_a_write_that_called_no_model(self):
        assert left_behind(items("AC"), items("Ab"), [Doubt.of(items("A"), "")]) == ()


def test_without_doubts_nothing_is_a_late_copy():
    assert late_copies(items("A"), items("AA"), ()) == ([], ())


def test_once_a_late_copy_is_deleted_its_doubt_is_gone():
    doubt, other = Doubt.of(items("A"), "", whole=True), Doubt.of(items("X"), "", whole=True)
    late, still_open = late_copies(items("Ab"), items("AbA"), [doubt, other])
    assert (words(late), still_open) == ("A", [other])
