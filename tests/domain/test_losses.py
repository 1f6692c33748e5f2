"""Test the words for what was lost of a request or an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadledger.domain.conversation.messages import JournaledMessage, Message, Role, ToolCall
from threadledger.domain.ids import now
from threadledger.domain.memory.rendering import results_left_out, valid_view
from threadledger.domain.memory.sending import losses_in_words


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({}, ""),
        ({"part:image_url": 1}, "1 image"),
        ({"part:input_audio": 2, "part:file": 1}, "1 file, 2 recordings"),
        ({"part:video": 1200}, "1,200 parts of type video"),
        ({"message:tool": 2}, "2 tool results"),
        ({"native:reasoning": 1}, "1 item of type reasoning"),
        ({"option:top_p": 1}, "the option top_p"),
        ({"anything": 3}, "3 items of type anything"),
    ],
)
def test_losses_are_told_in_words(losses: dict[str, int], words: str) -> None:
    assert losses_in_words(losses) == words


call_ids = st.sampled_from(["a", "b", "c"])
messages = st.one_of(
    st.just(Message(Role.USER, "Hello")),
    st.lists(call_ids, max_size=3).map(
        lambda ids: Message(Role.ASSISTANT, "I look", tuple(ToolCall(each, "weather", "{}") for each in ids))
    ),
    call_ids.map(lambda call_id: Message(Role.TOOL, "sunny", tool_call_id=call_id)),
)


@given(st.lists(messages, max_size=12))
def test_the_results_that_a_view_leaves_out_are_those_that_are_counted(said: list[Message]) -> None:
    view = valid_view(JournaledMessage(each, str(place), place, now()) for place, each in enumerate(said, 1))
    shown = [each for each in view if each.message.role is Role.TOOL and each.message.text == "sunny"]
    results = [each for each in said if each.role is Role.TOOL]
    assert len(results_left_out(said)) == len(results) - len(shown)
