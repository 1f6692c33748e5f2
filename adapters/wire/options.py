"""Check the options of requests: sampling, limits, tools, the choice of a tool, reasoning, and the answer's format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from .errors import bad_request, wrong_type
from .limits import (
    CHAT_TOOLS_MAX,
    FUNCTION_NAME_PATTERN,
    OUTPUT_TOKENS_MIN,
    PENALTY_MAX,
    REASONING_EFFORTS,
    RUN_TOKENS_MIN,
    SAFETY_IDENTIFIER_MAX_CHARS,
    SCHEMA_NAME_MAX_CHARS,
    STOPS_MAX,
    TEMPERATURE_MAX,
    TOP_LOGPROBS_MAX,
    VERBOSITIES,
)
from .objects import text_of
from .schemas import require_strict
from .shapes import (
    Check,
    Fields,
    anything,
    boolean,
    choice,
    decimal,
    either,
    listed,
    mapping,
    named,
    nullable,
    record,
    tagged,
    text,
    whole,
)
from .validation import Json, array, string

TOOL_MODES = ("none", "auto", "required")
HOSTED_TOOLS = (
    "file_search", "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
    "computer", "computer_use_preview", "mcp", "code_interpreter", "programmatic_tool_calling", "image_generation",
    "local_shell", "shell", "namespace", "tool_search", "apply_patch",
)  # fmt: skip
CHOSEN_TOOLS = (
    "file_search", "web_search_preview", "web_search_preview_2025_03_11", "computer", "computer_use_preview",
    "computer_use", "image_generation", "code_interpreter", "programmatic_tool_calling", "apply_patch", "shell",
)  # fmt: skip
"""Tools of the provider that `tool_choice` can name: not all of them."""

INCLUDED = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
    "reasoning.encrypted_content", "message.output_text.logprobs",
)  # fmt: skip
AUDIO_ANSWERS = ("wav", "aac", "mp3", "flac", "opus", "pcm16")


# Formats of the answer


def _schema_name(value: Any, where: str) -> None:
    name = string(value, where, SCHEMA_NAME_MAX_CHARS)
    if not re.fullmatch(FUNCTION_NAME_PATTERN, name):
        message = f"Invalid '{where}': string does not match pattern. Expected a string that matches the pattern "
        raise bad_request(f"{message}'^{FUNCTION_NAME_PATTERN}$'.", where, "invalid_value")


def _schema(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise wrong_type(where, "an object", value)


_DESCRIBED: Fields = {"description": text(), "strict": nullable(boolean)}
_NAMED_SCHEMA: Fields = {"name": _schema_name, "schema": _schema}


def _format(kinds: dict[str, Check]) -> Check:
    return tagged({"text": record({"type": anything}), "json_object": record({"type": anything}), **kinds})


_IN_TEXT = _format({"json_schema": record({"type": anything, **_NAMED_SCHEMA}, _DESCRIBED)})
_IN_CHAT = _format(
    {
        "json_schema": record(
            {"type": anything, "json_schema": record({"name": _schema_name}, {"schema": _schema, **_DESCRIBED})}
        )
    }
)


def _strict_schema(given: Json, where: str) -> None:
    if given.get("strict"):
        require_strict(given.get("schema"), f"response_format '{given['name']}'", where)


def text_format(body: Json) -> Json:
    """Return the format of a response's text, {"type": "text"} if none is given."""
    wanted: Json = (body.get("text") or {}).get("format") or {"type": "text"}
    return wanted


def chat_format(body: Json) -> Json:
    """Return the format of a completion, in the form of `text_format`."""
    wanted: Json = body.get("response_format") or {"type": "text"}
    return wanted if "json_schema" not in wanted else {"type": "json_schema", **wanted["json_schema"]}


def _require_word_json(shown: Iterable[Any], words: str, option: str, param: str) -> None:
    """Refuse `json_object` unless the input says "json": the model could write blanks without end."""
    if not any("json" in text_of(each).lower() for each in shown):
        message = f"{words} must contain the word 'json' in some form, to use '{option}' of type 'json_object'."
        raise bad_request(message, param)


# Tools


def _strict_function(function: Json, where: str) -> None:
    if function.get("strict"):
        require_strict(function.get("parameters"), f"function '{function['name']}'", where)


_FUNCTION: Fields = {"description": nullable(text()), "strict": nullable(boolean), "parameters": nullable(_schema)}
_CHAT_TOOL = tagged(
    {
        "function": record({"type": anything, "function": record({"name": named}, _FUNCTION)}),
        "custom": record({"type": anything, "custom": record({"name": named}, closed=False)}),
    }
)
_TOOL = tagged(
    {
        "function": record({"type": anything, "name": named}, _FUNCTION, closed=False),
        "custom": record({"type": anything, "name": named}, closed=False),
        **dict.fromkeys(HOSTED_TOOLS, record({"type": anything}, closed=False)),
    }
)


def _names(tools: Iterable[Json]) -> set[Any]:
    """Return the functions and types that a choice of a tool can name."""
    found: set[Any] = set()
    for tool in tools:
        found |= {tool["type"], tool.get("name"), (tool.get("function") or tool.get("custom") or {}).get("name")}
    return found - {None, "function", "custom"}


_ALLOWED: Fields = {"mode": choice("auto", "required"), "tools": listed()}
_NAME: Check = record({"name": text()})
_CHAT_CHOICE = either(
    choice(*TOOL_MODES),
    tagged(
        {
            "function": record({"type": anything, "function": _NAME}),
            "custom": record({"type": anything, "custom": _NAME}),
            "allowed_tools": record({"type": anything, "allowed_tools": record(_ALLOWED)}),
        }
    ),
    words="one of a string or object",
)
_CHOSEN = record({"type": anything, "name": text()})
_CHOICE = either(
    choice(*TOOL_MODES),
    tagged(
        {
            "function": _CHOSEN,
            "custom": _CHOSEN,
            "mcp": record({"type": anything, "server_label": text()}, {"name": nullable(text())}),
            "allowed_tools": record({"type": anything, **_ALLOWED}),
            **dict.fromkeys(CHOSEN_TOOLS, record({"type": anything})),
        }
    ),
    words="one of a string or object",
)
_RUN_CHOICE = either(
    choice(*TOOL_MODES),
    tagged(
        {
            "function": record({"type": anything, "function": _NAME}),
            "code_interpreter": record({"type": anything}),
            "file_search": record({"type": anything}),
        }
    ),
    words="one of a string or object",
)


def _require_offered(wanted: Any, tools: Iterable[Json]) -> None:
    """Refuse the choice of a tool that the request does not offer."""
    if not isinstance(wanted, dict) or wanted["type"] in ("allowed_tools", "mcp"):
        return
    name = wanted.get("name") or (wanted.get("function") or wanted.get("custom") or {}).get("name") or wanted["type"]
    if name not in _names(tools):
        raise bad_request(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice", "invalid_value")


# Options by API

_TOKENS = whole(1)
_STOP = either(text(), listed(text(), STOPS_MAX, 1), words="one of a string or array of strings")
_SAMPLING: dict[str, Check] = {
    "temperature": decimal(0, TEMPERATURE_MAX),
    "top_p": decimal(0, 1),
    "parallel_tool_calls": boolean,
}
_SHARED: dict[str, Check] = _SAMPLING | {
    "top_logprobs": whole(0, TOP_LOGPROBS_MAX),
    "user": text(),
    "safety_identifier": text(SAFETY_IDENTIFIER_MAX_CHARS),
    "prompt_cache_key": text(),
    "prompt_cache_retention": choice("in_memory", "in-memory", "24h"),
    "service_tier": text(),
    "store": boolean,
    "stream": boolean,
}
CHAT_OPTIONS: dict[str, Check] = _SHARED | {
    "max_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "frequency_penalty": decimal(-PENALTY_MAX, PENALTY_MAX),
    "presence_penalty": decimal(-PENALTY_MAX, PENALTY_MAX),
    "seed": whole(),
    "stop": _STOP,
    "logprobs": boolean,
    "logit_bias": mapping(whole(-100, 100)),
    "modalities": listed(choice("text", "audio"), of="strings"),
    "audio": record({"voice": anything, "format": choice(*AUDIO_ANSWERS)}),
    "verbosity": choice(*VERBOSITIES),
    "reasoning_effort": choice(*REASONING_EFFORTS),
    "tools": listed(_CHAT_TOOL, CHAT_TOOLS_MAX),
    "tool_choice": _CHAT_CHOICE,
    "response_format": _IN_CHAT,
}
_SUMMARIES = choice("auto", "concise", "detailed")
RESPONSE_OPTIONS: dict[str, Check] = _SHARED | {
    "max_output_tokens": whole(OUTPUT_TOKENS_MIN),
    "max_tool_calls": whole(1),
    "background": boolean,
    "truncation": choice("auto", "disabled"),
    "include": listed(choice(*INCLUDED), of="strings"),
    "instructions": text(),
    "tools": listed(_TOOL),
    "tool_choice": _CHOICE,
    "text": record({}, {"format": nullable(_IN_TEXT), "verbosity": nullable(choice(*VERBOSITIES))}),
    "reasoning": record(
        {},
        {
            "effort": nullable(choice(*REASONING_EFFORTS)),
            "summary": nullable(_SUMMARIES),
            "generate_summary": nullable(_SUMMARIES),
            "mode": nullable(text()),
            "context": nullable(choice("auto", "current_turn", "all_turns")),
        },
    ),
}
ASSISTANT_OPTIONS: dict[str, Check] = {
    "temperature": decimal(0, TEMPERATURE_MAX),
    "top_p": decimal(0, 1),
    "reasoning_effort": choice(*REASONING_EFFORTS),
    "response_format": either(choice("auto"), _IN_CHAT, words="one of a string or object"),
}
RUN_OPTIONS: dict[str, Check] = ASSISTANT_OPTIONS | {
    "max_prompt_tokens": whole(RUN_TOKENS_MIN),
    "max_completion_tokens": whole(RUN_TOKENS_MIN),
    "parallel_tool_calls": boolean,
    "tool_choice": _RUN_CHOICE,
    "truncation_strategy": record({"type": choice("auto", "last_messages")}, {"last_messages": nullable(whole(1))}),
}


def check_options(body: Json, options: Fields) -> None:
    """Check the options that a request gives; null means the default."""
    for name, check in options.items():
        if body.get(name) is not None:
            check(body[name], name)


def check_chat_options(body: Json, messages: list[Json]) -> None:
    """Check the options of a chat completion, also against each other and its checked messages."""
    check_options(body, CHAT_OPTIONS)
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise bad_request(message, "max_tokens", "invalid_parameter_combination")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        message = "Invalid value for 'top_logprobs': 'top_logprobs' is only allowed when 'logprobs' is enabled."
        raise bad_request(message, "top_logprobs")
    if not body.get("tools"):
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None and body[name] != "none":
                message = f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified."
                raise bad_request(message, name)
    if "audio" in (body.get("modalities") or []) and body.get("audio") is None:
        message = "This model requires that the 'audio' parameter is set when 'modalities' contain 'audio'."
        raise bad_request(message, "audio", "missing_required_parameter")
    _require_offered(body.get("tool_choice"), body.get("tools") or [])
    for tool in body.get("tools") or []:
        _strict_function(tool.get("function") or {}, "tools")
    wanted = chat_format(body)
    if wanted["type"] == "json_object":
        shown = (message.get("content") for message in messages)
        _require_word_json(shown, "'messages'", "response_format", "messages")
    _strict_schema(wanted, "response_format")


def check_response_options(body: Json, shown: Callable[[], Iterable[Json]]) -> None:
    """Check the options of a response, also against each other; `shown` returns the items that the model is shown."""
    check_options(body, RESPONSE_OPTIONS)
    tools = array(body.get("tools") or [], "tools")
    _require_offered(body.get("tool_choice"), tools)
    for tool in tools:
        _strict_function(tool if tool["type"] == "function" else {}, "tools")
    wanted = text_format(body)
    if wanted["type"] == "json_object":
        texts = [body.get("instructions"), *(item.get("content", item.get("output")) for item in shown())]
        _require_word_json(texts, "Response input messages", "text.format", "input")
    _strict_schema(wanted, "text.format.schema")
