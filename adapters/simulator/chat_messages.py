"""Check the messages of Chat Completions, with the provider's error messages where they are known."""

from typing import Any

from .call import Json
from .errors import bad_request, empty_array, json_kind, missing
from .limits import CHAT_ROLES
from .validation import an_object, array, one_of, required_string


def checked_messages(value: Any) -> list[Json]:
    """Return `value` if it is one or more messages in which every tool call is followed by its result."""
    if value is None:
        raise missing("messages")
    messages = array(value, "messages")
    if not messages:
        raise empty_array("messages")
    for index, message in enumerate(messages):
        _check(an_object(message, f"messages[{index}]"), index)
    _check_pairs(messages)
    return messages


def _check(message: Json, index: int) -> None:
    where = f"messages[{index}]"
    role = one_of(required_string(message, "role", f"{where}.role"), f"{where}.role", CHAT_ROLES)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        text = "Missing parameter 'tool_call_id': messages with role 'tool' must have a 'tool_call_id'."
        raise bad_request(text, f"messages.[{index}].tool_call_id")
    calls = message.get("tool_calls")
    if calls is not None:
        for position, call in enumerate(array(calls, f"{where}.tool_calls")):
            _check_call(an_object(call, f"{where}.tool_calls[{position}]"), f"{where}.tool_calls[{position}]")
    content = message.get("content")
    if content is None and role == "assistant" and (calls or message.get("function_call")):
        return
    if not isinstance(content, str | list):
        text = f"Invalid value for 'content': expected a string, got {json_kind(content).rpartition(' ')[2]}."
        raise bad_request(text, f"messages.[{index}].content")


def _check_call(call: Json, where: str) -> None:
    required_string(call, "id", f"{where}.id")
    function = an_object(call.get("function"), f"{where}.function")
    required_string(function, "name", f"{where}.function.name")
    required_string(function, "arguments", f"{where}.function.arguments")


def _check_pairs(messages: list[Json]) -> None:
    waiting: list[str] = []  # calls of the last assistant message that have no result yet
    known: set[str] = set()  # calls that a tool message may answer at this point
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in known:
                # The provider spells it "preceeding".
                text = (
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                    "with 'tool_calls'."
                )
                raise bad_request(text, f"messages.[{index}].role")
            waiting = [call_id for call_id in waiting if call_id != message["tool_call_id"]]
            continue
        _require_answered(waiting)
        waiting = [call["id"] for call in message.get("tool_calls") or []]
        known = set(waiting)
    _require_answered(waiting)


def _require_answered(waiting: list[str]) -> None:
    if waiting:
        raise bad_request(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
            "messages",
        )
