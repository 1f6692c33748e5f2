"""Check the values of request bodies, API by API, and return them in the form in which the provider keeps them.

Each check raises the provider's 400, with the provider's wording if it is known. Items of conversations and responses
are checked by `items.py`.
"""

from __future__ import annotations

from typing import Any

from . import fields
from .errors import bad_request, empty_array, json_kind, missing, wrong_type
from .items import IdSource, stored_item
from .limits import (
    ASSISTANT_DESCRIPTION_MAX_CHARS,
    ASSISTANT_NAME_MAX_CHARS,
    ASSISTANT_TOOL_TYPES,
    ASSISTANT_TOOLS_MAX,
    CHAT_CALL_ID_MAX_CHARS,
    CHAT_CHOICES_MAX,
    CHAT_IMAGE_DETAILS,
    CHAT_PARTS_OF_ROLES,
    CHAT_ROLES,
    CONVERSATION_ITEMS_PER_CALL_MAX,
    INSTRUCTIONS_MAX_CHARS,
    RUN_TOOLS_MAX,
    THREAD_MESSAGE_MAX_CHARS,
    THREAD_ROLES,
)
from .objects import text_part
from .options import ASSISTANT_OPTIONS, RUN_OPTIONS, check_options
from .parts import CHAT_PARTS, image_url
from .shapes import anything, listed, record, tagged, text
from .validation import (
    Json,
    an_object,
    array,
    function_arguments,
    function_name,
    metadata_of,
    one_of,
    only_known,
    optional_string,
    required_string,
    string,
)

CONTENT_TYPES = ("text", "image_url", "image_file")
_ATTACHMENTS = listed(
    record(
        {
            "file_id": text(),
            "tools": listed(tagged({kind: record({"type": anything}) for kind in ("code_interpreter", "file_search")})),
        }
    )
)


def assistant_values(body: Json) -> Json:
    """Return the given fields of an assistant; a null `model` is left out."""
    optional_string(body, "name", ASSISTANT_NAME_MAX_CHARS)
    optional_string(body, "description", ASSISTANT_DESCRIPTION_MAX_CHARS)
    optional_string(body, "instructions", INSTRUCTIONS_MAX_CHARS)
    check_options(body, ASSISTANT_OPTIONS)
    given = {name: body[name] for name in fields.ASSISTANT_FIELDS if name in body}
    if "tools" in given:
        given["tools"] = assistant_tools(given["tools"] or [])
    if "metadata" in given:
        given["metadata"] = metadata_of(body)
    if given.get("model", "") is None:
        del given["model"]
    return given


def assistant_tools(value: Any, maximum: int = ASSISTANT_TOOLS_MAX) -> list[Json]:
    """Return `value` if it is a list of tools that the Assistants API accepts; a function needs a name."""
    tools = array(value, "tools", maximum)
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = one_of(an_object(tool, where).get("type"), f"{where}.type", ASSISTANT_TOOL_TYPES)
        only_known(tool, ("type", kind), f"{where}.")
        if kind == "function":
            function = an_object(tool.get("function"), f"{where}.function")
            required_string(function, "name", f"{where}.function.name")
            only_known(function, fields.FUNCTION_FIELDS, f"{where}.function.")
    return tools


def message_role(body: Json, where: str = "") -> str:
    """Return the role of a thread's message; `where` is put before field names in error messages."""
    return one_of(required_string(body, "role", f"{where}role"), f"{where}role", THREAD_ROLES)


def message_content(body: Json, where: str = "") -> list[Json]:
    """Return the content parts of a thread's message; `where` is put before field names in error messages."""
    content, param = body.get("content"), f"{where}content"
    if content is None:
        raise missing(param)
    if isinstance(content, str):
        if not content:
            raise bad_request("Message content must be non-empty.", param)
        return [text_part(string(content, param, THREAD_MESSAGE_MAX_CHARS))]
    if not isinstance(content, list):
        raise wrong_type(param, "one of a string or array of objects", content)
    if not content:
        raise empty_array(param)
    return [_content_part(part, f"{param}[{index}]") for index, part in enumerate(content)]


def _content_part(part: Any, where: str) -> Json:
    kind = one_of(an_object(part, where).get("type"), f"{where}.type", CONTENT_TYPES)
    only_known(part, ("type", kind), f"{where}.")
    if kind == "text":
        return text_part(required_string(part, "text", f"{where}.text", THREAD_MESSAGE_MAX_CHARS))
    inner = an_object(part.get(kind), f"{where}.{kind}")
    if kind == "image_url":
        address = required_string(inner, "url", f"{where}.image_url.url")
        if address.startswith("data:"):  # "the external URL" [Y]
            raise bad_request(f"Invalid '{where}.image_url.url'. Expected a valid URL.", f"{where}.image_url.url")
        image_url(address, f"{where}.image_url.url")
    else:
        required_string(inner, "file_id", f"{where}.image_file.file_id")
    if inner.get("detail") is not None:
        one_of(inner["detail"], f"{where}.{kind}.detail", CHAT_IMAGE_DETAILS)
    only_known(inner, ("url" if kind == "image_url" else "file_id", "detail"), f"{where}.{kind}.")
    return {"type": kind, kind: inner}


def message_attachments(body: Json, where: str = "") -> list[Json]:
    """Return the files attached to a thread's message; each names the tools that read it."""
    given: list[Json] = body.get("attachments") or []
    _ATTACHMENTS(given, f"{where}attachments")
    return given


def run_instructions(body: Json, assistant: Json) -> str:
    """Return the instructions of a run: its own or the assistant's, followed by the additional ones."""
    own = optional_string(body, "instructions", INSTRUCTIONS_MAX_CHARS)
    added = optional_string(body, "additional_instructions", INSTRUCTIONS_MAX_CHARS)
    return "\n".join(filter(None, [assistant["instructions"] if own is None else own, added]))


def run_tools(body: Json, assistant: Json) -> list[Json]:
    """Return the tools of a run: its own or the assistant's; check the run's other options."""
    check_options(body, RUN_OPTIONS)
    tools: list[Json] = assistant_tools(body["tools"], RUN_TOOLS_MAX) if body.get("tools") else assistant["tools"]
    return tools


def tool_outputs(body: Json) -> dict[str, str]:
    """Return the submitted outputs by the id of their tool call."""
    outputs: dict[str, str] = {}
    for index, given in enumerate(array(body.get("tool_outputs"), "tool_outputs")):
        where = f"tool_outputs[{index}]"
        only_known(an_object(given, where), fields.TOOL_OUTPUT_FIELDS, f"{where}.")
        call_id = required_string(given, "tool_call_id", f"{where}.tool_call_id")
        outputs[call_id] = required_string(given, "output", f"{where}.output")
    return outputs


def conversation_items(value: Any, ids: IdSource) -> list[Json]:
    """Return the items to add to a conversation, with ids."""
    items = array(value, "items", CONVERSATION_ITEMS_PER_CALL_MAX)
    return [stored_item(item, f"items[{index}]", ids) for index, item in enumerate(items)]


def response_input(body: Json, ids: IdSource, *, has_context: bool) -> list[Json]:
    """Return the items of a response's `input`, with ids.

    The field may be absent if the request has earlier context or a prompt.
    """
    given: Any = body.get("input")
    if given is None:
        if not has_context and body.get("prompt") is None:
            raise bad_request(
                "One of 'input', 'previous_response_id', 'prompt' or 'conversation' must be provided.",
                "input",
                "missing_required_parameter",
            )
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise wrong_type("input", "one of a string or array of objects", given)
    return [stored_item(item, f"input[{index}]", ids) for index, item in enumerate(given)]


def response_conversation(body: Json) -> str | None:
    """Return the id of the conversation that a response is added to, or None."""
    wanted = body.get("conversation")
    if wanted is None:
        return None
    if body.get("previous_response_id") is not None:
        message = (
            "Mutually exclusive parameters: Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'."
        )
        raise bad_request(message, None, "mutually_exclusive_parameters")
    if isinstance(wanted, str):
        return wanted
    return required_string(an_object(wanted, "conversation"), "id", "conversation.id")


def response_tools(body: Json) -> list[Json]:
    """Return the tools of a response, which `options` has checked."""
    return array(body.get("tools") or [], "tools")


def chat_choices(body: Json) -> int:
    """Return the number of choices of a chat completion (`n`), 1 if it is absent or null."""
    value = body.get("n")
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type("n", "an integer", value)
    if not 1 <= value <= CHAT_CHOICES_MAX:
        message = f"Invalid 'n': expected an integer from 1 to {CHAT_CHOICES_MAX}, but got {value} instead."
        raise bad_request(message, "n", "invalid_value")
    return value


def chat_messages(body: Json) -> list[Json]:
    """Return one or more messages of Chat Completions, in which every tool call is followed by its result."""
    value = body.get("messages")
    if value is None:
        raise missing("messages")
    messages = array(value, "messages")
    if not messages:
        raise empty_array("messages")
    for index, message in enumerate(messages):
        _check_message(an_object(message, f"messages[{index}]"), index)
    _check_pairs(messages)
    return messages


def _check_message(message: Json, index: int) -> None:
    where = f"messages[{index}]"
    role = one_of(required_string(message, "role", f"{where}.role"), f"{where}.role", CHAT_ROLES)
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        text = "Missing parameter 'tool_call_id': messages with role 'tool' must have a 'tool_call_id'."
        raise bad_request(text, f"messages.[{index}].tool_call_id")
    calls = message.get("tool_calls")
    if calls is not None:
        if not array(calls, f"{where}.tool_calls"):
            raise empty_array(f"{where}.tool_calls")
        for position, call in enumerate(calls):
            _check_call(an_object(call, f"{where}.tool_calls[{position}]"), f"{where}.tool_calls[{position}]")
    function = message.get("function_call")
    if function is not None:
        function_name(an_object(function, f"{where}.function_call").get("name"), f"{where}.function_call.name")
        function_arguments(function.get("arguments"), f"{where}.function_call.arguments")
    content = message.get("content")
    if content is None and role == "assistant" and (calls or function):
        return
    if not isinstance(content, str | list):
        text = f"Invalid value for 'content': expected a string, got {json_kind(content).rpartition(' ')[2]}."
        raise bad_request(text, f"messages.[{index}].content")
    if isinstance(content, list):
        if not content:
            raise empty_array(f"{where}.content")
        for position, part in enumerate(content):
            _check_part(an_object(part, f"{where}.content[{position}]"), role, f"{where}.content[{position}]")


def _check_part(part: Json, role: str, where: str) -> None:
    kind = one_of(part.get("type"), f"{where}.type", CHAT_PARTS_OF_ROLES.get(role, ("text",)))
    CHAT_PARTS[kind](part, where)


def _check_call(call: Json, where: str) -> None:
    if not required_string(call, "id", f"{where}.id", CHAT_CALL_ID_MAX_CHARS):
        raise bad_request(f"Invalid '{where}.id': empty string.", f"{where}.id", "invalid_value")
    if call.get("type") == "custom":
        custom = an_object(call.get("custom"), f"{where}.custom")
        function_name(custom.get("name"), f"{where}.custom.name")
        required_string(custom, "input", f"{where}.custom.input")
        return
    function = an_object(call.get("function"), f"{where}.function")
    function_name(function.get("name"), f"{where}.function.name")
    function_arguments(function.get("arguments"), f"{where}.function.arguments")
    one_of(call.get("type"), f"{where}.type", ("function", "custom"))


def _check_pairs(messages: list[Json]) -> None:
    waiting: list[str] = []  # calls of the last assistant message that have no result yet
    known: set[str] = set()  # calls that a tool message may answer at this point
    used: set[str] = set()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in known:
                # The provider spells it "preceeding".
                text = (
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                    "with 'tool_calls'."
                )
                raise bad_request(text, f"messages.[{index}].role")
            if message["tool_call_id"] not in waiting:
                text = f"Invalid parameter: Duplicate value for 'tool_call_id' of '{message['tool_call_id']}'."
                raise bad_request(text, f"messages.[{index}].tool_call_id")
            waiting = [call_id for call_id in waiting if call_id != message["tool_call_id"]]
            continue
        _require_answered(waiting)
        waiting = [call["id"] for call in message.get("tool_calls") or []]
        if len({*waiting}) < len(waiting) or not used.isdisjoint(waiting):
            # OpenAI accepts an id again in a later turn; Anthropic refuses it everywhere, in these words.
            raise bad_request(f"messages.{index}: `tool_use` ids must be unique", "messages")
        used |= {*waiting}
        known = set(waiting)
    _require_answered(waiting)


def _require_answered(waiting: list[str]) -> None:
    if waiting:
        raise bad_request(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
            "messages",
        )
