"""Tool calls and results as providers insist on them: mended in the view, never in the data."""

import json
from functools import partial as fact

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.conversation import events as e
from threadledger.domain.memory import fold_memory
from threadledger.domain.memory.rendering import valid_view

NO_RESULT = "[no result of this call was recorded]"
CUSTOM = {"id": "c1", "type": "custom", "custom": {"name": "grep", "input": "parcel"}}


def user(text="Hi"):
    return {"role": "user", "content": text}


def calls(*call_ids):
    made = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in call_ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(call_id, text="42"):
    return {"role": "tool", "tool_call_id": call_id, "content": text}


@pytest.mark.parametrize(
    ("journaled", "shown"),
    [
        ([user(), user()], [user(), user()]),
        ([calls("a"), result("a")], [calls("a"), result("a")]),
        ([calls("a"), user()], [calls("a"), result("a", NO_RESULT), user()]),
        ([calls("a")], [calls("a"), result("a", NO_RESULT)]),
        ([result("a"), user()], [user()]),
        ([result("a"), calls("a")], [calls("a"), result("a", NO_RESULT)]),
        ([calls("a"), user(), result("a")], [calls("a"), result("a"), user()]),
        ([calls("a"), result("a", "1"), result("a", "2")], [calls("a"), result("a", "1")]),
        ([calls("a"), result("a", "1"), user(), result("a", "2")], [calls("a"), result("a", "1"), user()]),
        (
            [calls("a", "b"), result("b", "B"), result("a", "A")],
            [calls("a", "b"), result("a", "A"), result("b", "B")],
        ),
        ([calls("a", "b"), result("b", "B")], [calls("a", "b"), result("a", NO_RESULT), result("b", "B")]),
        (
            [calls("a"), result("a", "1"), user(), calls("a"), result("a", "2")],
            [calls("a"), result("a", "1"), user(), calls("a-2"), result("a-2", "2")],
        ),
        (
            [calls("a"), user(), calls("a"), result("a", "2")],
            [calls("a"), result("a", NO_RESULT), user(), calls("a-2"), result("a-2", "2")],
        ),
        (
            [calls("a", "a"), result("a", "1"), result("a", "2")],
            [calls("a", "a-2"), result("a", "1"), result("a-2", "2")],
        ),
        (
            [calls("a"), calls("b"), result("b", "B"), result("a", "A")],
            [calls("a"), result("a", "A"), calls("b"), result("b", "B")],
        ),
        ([calls("a"), result("b")], [calls("a"), result("a", NO_RESULT)]),
    ],
    ids=[
        "without calls nothing is mended",
        "an answered call stays",
        "a missing result is said to be missing",
        "at the end too",
        "a result without call is left out",
        "a result before its call is none",
        "a late result is moved up",
        "a second result is left out",
        "a late second result is left out",
        "results stand in the order of the calls",
        "one of two results is missing",
        "a call id used again in a later turn is another call",
        "a result belongs to the latest call of its id",
        "two calls of one message with one id get a result each",
        "results of two messages go each to its own",
        "a result of another call answers nothing",
    ],
)
def test_the_view_is_mended(memory_of, journaled, shown):
    assert memory_of(*journaled).as_chat_messages() == shown


def test_the_data_is_not_mended(memory_of):
    journaled = [result("x"), calls("a"), user(), result("a")]
    memory = memory_of(*journaled)
    memory.paired()
    assert [each.message.as_chat_message() for each in memory.messages] == journaled


def test_a_result_moved_up_keeps_its_id_and_a_made_up_one_has_none(memory_of):
    memory = memory_of(calls("a", "b"), user(), result("a"))
    assert [each.message_id for each in memory.paired()] == ["m1", "m3", "", "m2"]


def test_a_result_whose_call_was_retracted_is_left_out_and_a_call_whose_result_was_is_mended(log):
    called = fact(e.MessageJournaled, message_id="m1", role="assistant", tool_calls=calls("a")["tool_calls"])
    answered = fact(e.MessageJournaled, message_id="m2", role="tool", content="42", tool_call_id="a")
    without_call = fold_memory(log(called, answered, fact(e.MessageRetracted, message_id="m1")))
    without_result = fold_memory(log(called, answered, fact(e.MessageRetracted, message_id="m2")))
    assert without_call.as_chat_messages() == []
    assert without_result.as_chat_messages() == [calls("a"), result("a", NO_RESULT)]


def test_a_result_whose_call_is_out_of_view_is_left_out(memory_of):
    memory = memory_of(user("old"), calls("a"), result("a"), user("new"))
    assert memory.window(last=2).as_chat_messages() == [user("new")]
    assert memory.window(last=3).as_chat_messages() == [calls("a"), result("a"), user("new")]


@pytest.mark.parametrize(
    "call",
    [CUSTOM, calls("c1")["tool_calls"][0] | {"index": 0}, calls("c1")["tool_calls"][0] | {"function": {"name": "f"}}],
    ids=["custom", "with a key of its own", "without arguments"],
)
def test_a_call_of_a_shape_of_its_own_is_shown_as_a_function_call_with_its_result(memory_of, call):
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    _, shown, answered = memory_of(user(), calling, result("c1")).as_chat_messages()
    (made,) = shown["tool_calls"]
    assert (made.keys(), made["function"].keys()) == ({"id", "type", "function"}, {"name", "arguments"})
    assert isinstance(json.loads(made["function"]["arguments"]), dict)
    assert answered == result("c1")


call_ids = st.sampled_from(["a", "b", "c"])
messages = st.lists(
    st.one_of(
        st.builds(user, st.sampled_from(["Hi", "Bye"])),
        st.builds(lambda ids: calls(*ids), st.lists(call_ids, min_size=1, max_size=3)),
        st.builds(result, call_ids, st.sampled_from(["1", "2", "3"])),
    ),
    max_size=14,
)


def assert_every_call_is_answered_once_and_at_once(shown):
    expected = []
    for message in shown:
        if expected:
            assert message.get("tool_call_id") == expected.pop(0)
        else:
            assert message["role"] != "tool"
            expected = [call["id"] for call in message.get("tool_calls", [])]
    assert expected == []


class TestAnyMessages:
    @for_all(messages)
    def test_every_call_is_answered_once_directly_after_its_message_and_no_result_stands_alone(
        self, memory_of, journaled
    ):
        assert_every_call_is_answered_once_and_at_once(memory_of(*journaled).as_chat_messages())

    @for_all(messages, st.integers(1, 15))
    def test_so_it_is_in_every_window(self, memory_of, journaled, last):
        assert_every_call_is_answered_once_and_at_once(memory_of(*journaled).window(last).as_chat_messages())

    @for_all(messages)
    def test_so_it_is_in_the_settled_view_which_makes_up_no_result_at_its_end(self, memory_of, journaled):
        memory = memory_of(*journaled)
        settled = memory.settled()
        assert settled.messages == memory.messages[: len(settled.messages)]
        shown = settled.as_chat_messages()
        assert_every_call_is_answered_once_and_at_once(shown)
        assert not shown or shown[-1]["content"] != NO_RESULT

    @for_all(messages)
    def test_so_it_is_among_the_items_of_responses(self, memory_of, journaled):
        waiting = []
        for item in memory_of(*journaled).as_response_items():
            match item["type"]:
                case "function_call":
                    waiting.append(item["call_id"])
                case "function_call_output":
                    assert item["call_id"] == waiting.pop(0)
                case _:
                    assert waiting == []
        assert waiting == []

    @for_all(messages)
    def test_everything_but_results_stays_in_its_order(self, memory_of, journaled):
        shown = memory_of(*journaled).as_chat_messages()

        def said(messages):
            return [
                (each["role"], each["content"], len(each.get("tool_calls", ())))
                for each in messages
                if each["role"] != "tool"
            ]

        assert said(shown) == said(journaled)

    @for_all(messages)
    def test_no_two_calls_have_one_id(self, memory_of, journaled):
        shown = memory_of(*journaled).as_chat_messages()
        ids = [call["id"] for each in shown for call in each.get("tool_calls", ())]
        assert len(ids) == len(set(ids))

    @for_all(messages)
    def test_a_shown_result_is_one_that_was_journaled_or_says_that_there_is_none(self, memory_of, journaled):
        memory = memory_of(*journaled)
        by_id = {each.message_id: each for each in memory.messages}
        for each in memory.paired():
            assert each == by_id.get(each.message_id) or (each.message_id, each.message.text) == ("", NO_RESULT)

    @for_all(messages)
    def test_no_result_is_shown_twice(self, memory_of, journaled):
        ids = [each.message_id for each in valid_view(memory_of(*journaled).messages) if each.message_id]
        assert len(ids) == len(set(ids))

    @for_all(messages)
    def test_a_mended_view_needs_no_mending(self, memory_of, journaled):
        shown = memory_of(*journaled).as_chat_messages()
        assert memory_of(*shown).as_chat_messages() == shown
