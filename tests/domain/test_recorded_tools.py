"""Tool calls of an exchange that is run again: what a function did once, it does not do twice."""

from functools import partial as fact
from types import SimpleNamespace

import pytest

from threadledger.domain.conversation import events as e
from threadledger.domain.exchange import not_bound, tools_on_record


def call(call_id, arguments="{}", name="send", exchange_id="x1"):
    function = {"name": name, "arguments": arguments}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return fact(
        e.MessageJournaled, message_id=f"wish {call_id}", role="assistant", tool_calls=calls, exchange_id=exchange_id
    )


def result(call_id, text, exchange_id="x1"):
    return fact(
        e.MessageJournaled,
        message_id=f"result {call_id}",
        role="tool",
        tool_call_id=call_id,
        content=text,
        exchange_id=exchange_id,
    )


@pytest.fixture
def sent():
    return []


@pytest.fixture
def tools(log, sent):
    """Functions that answer from these facts, and otherwise note what they were called with."""

    def send(**arguments):
        sent.append(arguments)
        return "sent now"

    def make(*facts, live=True):
        journal = SimpleNamespace(history=lambda key, after=0: log(*facts))
        return tools_on_record(journal, "k", "x1", {"send": send} if live else {})

    return make


def test_a_call_that_is_on_record_is_answered_from_there_and_the_function_is_not_called(tools, sent):
    functions = tools(call("c1", '{"to": "Ann"}'), result("c1", "sent"))
    assert functions["send"](to="Ann") == "sent"
    assert sent == []


def test_the_same_call_made_twice_gets_each_result_once_and_then_the_last_one_again(tools):
    functions = tools(call("c1"), result("c1", "first"), call("c2"), result("c2", "second"))
    assert [functions["send"]() for _ in range(4)] == ["first", "second", "second", "second"]


@pytest.mark.parametrize("arguments", ['{"a":1,"b":[2]}', '{"b": [2], "a": 1}', ' {\n"b":[2],"a":1}'])
def test_arguments_are_the_same_however_they_are_written(tools, arguments):
    assert tools(call("c1", arguments), result("c1", "sent"))["send"](b=[2], a=1) == "sent"


@pytest.mark.parametrize("arguments", ["", "{}"])
def test_a_call_without_arguments_is_on_record_too(tools, arguments):
    assert tools(call("c1", arguments), result("c1", "sent"))["send"]() == "sent"


def test_arguments_may_have_any_name(tools):
    names = {"called": 1, "results": 2, "otherwise": 3}
    functions = tools(call("c1", '{"called": 1, "results": 2, "otherwise": 3}'), result("c1", "sent"))
    assert functions["send"](**names) == "sent"


def test_a_call_with_other_arguments_goes_to_the_function(tools, sent):
    functions = tools(call("c1", '{"to": "Ann"}'), result("c1", "sent"))
    assert functions["send"](to="Bob") == "sent now"
    assert sent == [{"to": "Bob"}]


def test_a_call_that_is_not_on_record_fails_and_names_itself_where_no_function_may_be_called(tools):
    functions = tools(call("c1", '{"to": "Ann"}'), result("c1", "sent"), live=False)
    with pytest.raises(LookupError, match="no result of send with these arguments is on record"):
        functions["send"](to="Bob")


def test_a_function_that_was_never_called_is_there_only_where_it_may_be_called(tools):
    assert (list(tools()), list(tools(live=False))) == (["send"], [])


def test_a_call_that_never_got_its_result_is_made(tools, sent):
    assert tools(call("c1"))["send"]() == "sent now"
    assert sent == [{}]


@pytest.mark.parametrize("arguments", ["not json", '{"to": NaN', "[1]"])
def test_a_call_with_arguments_that_no_function_takes_is_no_record_of_another(tools, sent, arguments):
    functions = tools(call("c1", arguments), result("c1", "[the tool failed: …]"))
    assert functions["send"](to="Ann") == "sent now"


def test_the_calls_of_another_exchange_are_no_record_of_this_one(tools, sent):
    functions = tools(call("c1", exchange_id="x0"), result("c1", "sent long ago", exchange_id="x0"))
    assert functions["send"]() == "sent now"


def test_a_call_that_failed_because_nothing_was_bound_is_made_once_something_is(tools, sent):
    functions = tools(call("c1"), result("c1", not_bound("send")))
    assert functions["send"]() == "sent now"
    assert sent == [{}]
