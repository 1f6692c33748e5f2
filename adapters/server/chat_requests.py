"""Read requests for chat completions: the conversation, the messages, and what becomes a profile or is passed on.

Values are checked only as far as they have to be stored: what the provider would refuse is left to the provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from threadledger.domain.conversation import Profile, parse_message, parse_profile
from threadledger.domain.conversation.messages import Message, Role
from threadledger.domain.errors import InvalidMessage, InvalidProfile
from threadledger.domain.memory.rendering import results_left_out
from threadledger.domain.memory.sending import RESULT_LEFT_OUT

from ..wire import ApiError, Json, bodies, validation
from ..wire.errors import bad_request, empty_array, missing
from ..wire.fields import CHAT_PART_FIELDS, COMPLETION_FIELDS
from ..wire.limits import CHAT_ROLES, CHAT_TOOLS_MAX
from . import tenants
from .calls import Served, ServedCall
from .files import with_files
from .hosted_tools import checked_choice, checked_search, checked_tools, losses_of
from .ids import header_text, new_id

COMPLETION = "chatcmpl-"
CONVERSATION_HEADER, CONVERSATION_PAIR = "x-threadledger-conversation", "conversation"
"""Header, and key in the metadata, that name the conversation of a request."""

INSTRUCTIONS = frozenset({Role.SYSTEM, Role.DEVELOPER})
SETTINGS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning_effort",
    "response_format": "response_format",
    "tool_choice": "tool_choice",
}
"""Fields that become settings of the profile, with their names there; the later one of two for a setting counts."""

NOT_KEPT = ("logprobs", "top_logprobs")
"""Fields that are not passed on, because what they ask for is not stored with an answer."""

READ = frozenset(
    {
        *("messages", "model", "metadata", "store", "stream", "stream_options", "n", "tools", "web_search_options"),
        *SETTINGS,
        *NOT_KEPT,
    }
)
PASSED_ON = tuple(name for name in COMPLETION_FIELDS if name not in READ)
"""Fields that a backend is sent as they are if it speaks Chat Completions."""

RECORDED_CHARS_MAX = 1_024
"""Length up to which the JSON of a field that is passed on is recorded, in characters; of a longer one, the name is."""

SCOPED_CHOICES = frozenset({"allowed_tools"})
"""Types of a tool choice that name no tool of the provider."""


@dataclass(frozen=True)
class WantedCompletion:
    """Hold what a request for a chat completion asks for, checked."""

    key: str
    """Key of the conversation."""
    completion_id: str
    model: str
    profile: Profile
    """The profile that is recorded with the request: its instructions are the messages at the beginning that are some."""
    sent_profile: Profile
    """The profile of the runs. If there is nothing but instructions, the last of these is sent as a message."""
    messages: Sequence[Message]
    """The messages that are sent besides, in their order."""
    options: Mapping[str, Any]
    """Parameters that only Chat Completions has."""
    not_kept: Sequence[str]
    """Options that no backend is given."""
    dropped: Sequence[str]
    """Types of hosted tools that were left out."""
    results_left_out: int
    """Number of the messages that are results of calls which are not among them: no model is shown these."""
    metadata: Mapping[str, str]
    is_stored: bool
    has_usage: bool
    """Whether a stream ends with the usage."""

    @property
    def said(self) -> list[Message]:
        """Return the messages that belong in a conversation: those that are no instructions."""
        return [each for each in self.messages if each.role not in INSTRUCTIONS]

    def shown(self, kept: Sequence[Message]) -> list[Message]:
        """Return all messages, with those that belong in a conversation as they were stored."""
        stored = iter(kept)
        return [each if each.role in INSTRUCTIONS else next(stored) for each in self.messages]

    @property
    def losses(self) -> dict[str, int]:
        """Return what no backend is given, by kind."""
        results = {RESULT_LEFT_OUT: self.results_left_out} if self.results_left_out else {}
        return losses_of(self.dropped) | {f"option:{name}": 1 for name in self.not_kept} | results

    def recorded(self) -> Json:
        """Return what is recorded with the request besides the profile."""
        sizes = {name: len(json.dumps(value)) for name, value in self.options.items()}
        small = {name: value for name, value in self.options.items() if sizes[name] <= RECORDED_CHARS_MAX}
        found: Json = {
            "completion_id": self.completion_id,
            "options": small,
            "options_not_recorded": sorted(self.options.keys() - small.keys()),
            "not_kept": list(self.not_kept),
            "dropped": list(self.dropped),
            "store": self.is_stored,
            "messages": len(self.said),
        }
        return {name: value for name, value in found.items() if value}


def wanted_completion(served: Served, call: ServedCall) -> WantedCompletion:
    """Return what a request asks for.

    Raises:
        ApiError: a 400.
    """
    body = call.body
    model, metadata = validation.required_string(body, "model"), validation.metadata_of(body)
    validation.flag(body, "stream")
    if bodies.chat_choices(body) > 1:
        raise bad_request(
            "Invalid 'n': this server returns one choice for each request: leave 'n' out, and send the request again for another "
            "answer.",
            "n",
            "unsupported_value",
        )
    key, completion_id = _conversation_of(call, metadata)
    profile, sent_profile, given, options, dropped = _read(served, body)
    messages = [with_files(served, call.caller, each) for each in given]
    streaming = body.get("stream_options")
    return WantedCompletion(
        key,
        completion_id,
        model,
        profile,
        sent_profile,
        messages,
        options,
        [name for name in NOT_KEPT if body.get(name)],
        dropped,
        _results_left_out(messages),
        metadata,
        validation.flag(body, "store"),
        isinstance(streaming, dict) and streaming.get("include_usage") is True,
    )


def _conversation_of(call: ServedCall, metadata: Mapping[str, str]) -> tuple[str, str]:
    """Return the key of the conversation of a request, and the id of its completion; without a name, it is a new one."""
    in_header = call.request_headers.get(CONVERSATION_HEADER)
    named = header_text(in_header) if in_header is not None else metadata.get(CONVERSATION_PAIR)
    if in_header is not None and named is None:
        raise bad_request(
            f"Invalid '{CONVERSATION_HEADER}': the name of the conversation is not in UTF-8: send it in that encoding, or as "
            "'conversation' in 'metadata'.",
            CONVERSATION_HEADER,
            "invalid_value",
        )
    if named is None:
        completion_id = new_id(COMPLETION, call.request_key)
        return tenants.key_of(call.caller, completion_id), completion_id
    try:
        key = tenants.key_of(call.caller, named)
    except ApiError:
        place = CONVERSATION_HEADER if in_header is not None else "metadata.conversation"
        raise bad_request(
            f"Invalid '{place}': {named!a:.80} cannot be the name of a conversation: use up to 200 characters that do not begin "
            "with 'tenant:'.",
            place,
            "invalid_value",
        ) from None
    return key, new_id(COMPLETION, f"{call.request_key}\n{key}")


def _read(served: Served, body: Json) -> tuple[Profile, Profile, list[Message], Json, list[str]]:
    messages = _messages(body)
    leading = next((place for place, each in enumerate(messages) if each.role not in INSTRUCTIONS), len(messages))
    sent = min(leading, len(messages) - 1)
    options = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    tools, dropped = checked_tools(body.get("tools"), served.settings, maximum=CHAT_TOOLS_MAX)
    choice = body.get("tool_choice")
    if not (isinstance(choice, dict) and choice.get("type") in SCOPED_CHOICES):
        choice, left_out = checked_choice(choice, tools, served.settings)
        dropped = [*dropped, *left_out]
    dropped += checked_search(body.get("web_search_options"), served.settings)
    try:
        parsed = parse_profile({"tools": tools}, "")
        parsed.check()
    except InvalidProfile as error:
        raise bad_request(f"Invalid 'tools': {error}", "tools") from error
    settings: Json = {}
    for name, setting in SETTINGS.items():
        value = choice if name == "tool_choice" else body.get(name)
        if value is None:
            continue
        try:
            settings |= parse_profile({"tools": tools, "settings": {setting: value}}, "").settings
        except InvalidProfile:  # the provider says what is wrong, or knows more values than we do
            options[name] = value
    made = Profile(
        tools_json=parsed.tools_json,
        settings_json=parse_profile({"tools": tools, "settings": settings}, "").settings_json,
    )
    recorded, shown = (replace(made, instructions=_joined(messages[:end])) for end in (leading, sent))
    return recorded, shown, messages[sent:], options, list(dict.fromkeys(dropped))


def _results_left_out(messages: Sequence[Message]) -> int:
    left_out = results_left_out(messages)
    if len(left_out) == len(messages):
        raise bad_request(
            "Invalid 'messages': they are results of calls alone, which no model can be shown without the calls "
            f"({left_out[0]!a:.80}): send what was said before them too, with the calls in an assistant's 'tool_calls'.",
            "messages",
            "invalid_value",
        )
    return len(left_out)


def _joined(messages: Sequence[Message]) -> str:
    return "\n\n".join(filter(None, (each.text for each in messages)))


def _messages(body: Json) -> list[Message]:
    """Return the messages of a request: whatever can be stored, from a role that is known."""
    if body.get("messages") is None:
        raise missing("messages")
    given = validation.array(body["messages"], "messages")
    if not given:
        raise empty_array("messages")
    return [_message(each, f"messages[{place}]") for place, each in enumerate(given)]


def _message(given: Any, where: str) -> Message:
    fields = validation.an_object(given, where)
    role = validation.one_of(validation.required_string(fields, "role", f"{where}.role"), f"{where}.role", CHAT_ROLES)
    if role == "function":
        raise bad_request(
            f"Invalid '{where}.role': results of 'functions' are not kept: offer the functions in 'tools', and send results with "
            "the role 'tool'.",
            f"{where}.role",
            "unsupported_value",
        )
    _remove_addresses(fields.get("content"), f"{where}.content")
    said = {name: value for name, value in fields.items() if name == "content" or value not in (None, [])}
    try:
        return parse_message(said)
    except InvalidMessage as error:
        raise bad_request(f"Invalid '{where}': {error}", where, "invalid_value") from error


def _remove_addresses(content: Any, where: str) -> None:
    """Note and remove what the API's content parts do not have: the addresses of stored bytes belong to the ledger alone."""
    for place, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        inner = part.get(kind) if isinstance(kind, str) else None
        if kind in CHAT_PART_FIELDS and isinstance(inner, dict):
            validation.only_known(inner, CHAT_PART_FIELDS[kind], f"{where}[{place}].{kind}.")
