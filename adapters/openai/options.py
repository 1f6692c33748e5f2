"""Convert the settings of a profile and metadata to the fields of each API, and name those that an API does not have.

A request without settings and metadata loads none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from threadledger.domain.exchange import BackendRequest

from .tools import FUNCTION_NAME

# Source of fields and ranges: OpenAI's OpenAPI description distributed with openai-python 3.54 (`CreateChatCompletionRequest`,
# `CreateResponse`, `CreateRunRequest`), and the types of anthropic 2.14 with Anthropic's documentation. November 2026.
RUN_TOKENS_MIN = 256
"""Smallest limit of the answer of an Assistants run, in tokens."""

METADATA_PAIRS_MAX = 16
"""Maximum number of pairs of a response or run, including ours."""

ANTHROPIC_TEMPERATURE_MAX = 1
ANTHROPIC_EFFORTS = frozenset({"none", "low", "medium", "high", "xhigh", "max"})


def options_lacking(kind: str, request: BackendRequest, extra: Mapping[str, Any]) -> list[str]:
    """Return `option:NAME` for each setting and other parameter, and for metadata, that this kind of API does not take as it is.

    Args:
        kind: `chat`, `responses`, `assistants` or `anthropic`.
        request: the request with the settings.
        extra: the parameters of a named backend.
    """
    settings = request.profile.settings
    found = [name for name, value in settings.items() if not _has(kind, name, value, request)]
    found += _extra_lacking(kind, request)
    return [f"option:{name}" for name in [*found, *([] if _keeps_metadata(kind, request, extra) else ["metadata"])]]


def refused_options(kind: str, request: BackendRequest) -> str | None:
    """Return why an API of this kind refuses the settings of a request; None if it takes them. Metadata changes no answer."""
    names = [name for name, value in request.profile.settings.items() if not _has(kind, name, value, request)]
    names += _extra_lacking(kind, request)
    if not names:
        return None
    return (
        f"{kind} does not take {', '.join(names)} with this value: leave it out, or unset THREADLEDGER_FALLBACK=strict"
    )


def _extra_lacking(kind: str, request: BackendRequest) -> list[str]:
    return [] if kind == "chat" else [*request.extra]


def _has(kind: str, name: str, value: Any, request: BackendRequest) -> bool:
    match kind, name:
        case _, "tool_choice":
            return _can_choose(kind, value, request)
        case "assistants", "max_output_tokens":
            return int(value) >= RUN_TOKENS_MIN
        case "anthropic", "temperature":
            return float(value) <= ANTHROPIC_TEMPERATURE_MAX
        case "anthropic", "reasoning_effort":
            return value in ANTHROPIC_EFFORTS
        case "anthropic", "response_format":
            return str(value["type"]) != "json_object"
        case _:
            return True


def _can_choose(kind: str, chosen: Any, request: BackendRequest) -> bool:
    """Return whether the tool is offered. Only functions can be chosen in Chat Completions and Messages."""
    if chosen in ("auto", "none"):
        return True
    functions = [each["function"]["name"] for each in request.profile.tools if each["type"] == "function"]
    bound = [name for name in functions if kind == "assistants" or name in request.tools]
    hosted = [] if kind in ("chat", "anthropic") else [each["type"] for each in request.profile.tools]
    if chosen == "required":
        return bool(bound or hosted)
    return chosen["function"]["name"] in bound if chosen["type"] == "function" else chosen["type"] in hosted


def _keeps_metadata(kind: str, request: BackendRequest, extra: Mapping[str, Any]) -> bool:
    """Return whether metadata can be sent: Chat Completions keep it with stored answers only, and runs need two pairs."""
    if not request.metadata or kind == "responses":
        return True
    if kind == "assistants":
        return len(request.metadata) <= METADATA_PAIRS_MAX - 2
    return kind == "chat" and extra.get("store") is True


def body_with_options(
    kind: str,
    request: BackendRequest,
    extra: Mapping[str, Any],
    number: int,
    tools: Sequence[Any],
    own: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the argument of an SDK call that adds the parameters of a named backend, settings and metadata.

    Settings win over parameters of the same name.

    Args:
        kind: `chat`, `responses`, `assistants` or `anthropic`.
        request: the request with the settings.
        extra: the parameters of a named backend.
        number: the index of the request in its run; a tool is forced in the first one only, or no answer would come.
        tools: the offered tools.
        own: pairs of metadata that the backend itself sends.
    """
    settings = request.profile.settings
    chosen = settings.pop("tool_choice", None)
    fields = _FIELDS[kind](settings)
    if chosen is not None and tools and (number == 0 or chosen in ("auto", "none")):
        fields["tool_choice"] = _choice(kind, chosen)
    if request.metadata:
        fields["metadata"] = _metadata(request.metadata, own or {})
    body = {**extra, **(request.extra if kind == "chat" else {})}
    if "max_tokens" in body and "max_completion_tokens" in fields:  # the server has the name of earlier versions
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    for name, value in fields.items():
        configured = body.get(name)
        if isinstance(configured, Mapping) and isinstance(value, Mapping) and name != "tool_choice":
            value = {**configured, **value}  # noqa: PLW2901 - such as the verbosity of a text that has a format
        body[name] = value
    return {"extra_body": body} if body else {}


def _metadata(given: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the app's pairs, and the backend's as far as there is room for them."""
    room = max(METADATA_PAIRS_MAX - len(given), 0)
    kept = list(own.items())[-room:] if room else []
    return {**given, **dict(kept)}


def _choice(kind: str, chosen: Any) -> Any:
    if isinstance(chosen, str):
        return {"type": "any" if chosen == "required" else chosen} if kind == "anthropic" else chosen
    if chosen["type"] != "function":
        return chosen
    name = chosen["function"]["name"]
    if not FUNCTION_NAME.fullmatch(name):
        from threadledger.domain.memory import valid_name

        name = valid_name(name)
    match kind:
        case "anthropic":
            return {"type": "tool", "name": name}
        case "responses":
            return {"type": "function", "name": name}
        case _:
            return {"type": "function", "function": {"name": name}}


def _renamed(settings: Mapping[str, Any], tokens: str) -> dict[str, Any]:
    return {tokens if name == "max_output_tokens" else name: value for name, value in settings.items()}


def _of_chat(settings: dict[str, Any]) -> dict[str, Any]:
    return _renamed(settings, "max_completion_tokens")


def _of_responses(settings: dict[str, Any]) -> dict[str, Any]:
    effort, wanted = settings.pop("reasoning_effort", None), settings.pop("response_format", None)
    fields = dict(settings)
    if effort is not None:
        fields["reasoning"] = {"effort": effort}
    if wanted is not None:
        fields["text"] = {"format": {"type": wanted["type"], **wanted.get("json_schema", {})}}
    return fields


def _of_messages(settings: dict[str, Any]) -> dict[str, Any]:
    effort, wanted = settings.pop("reasoning_effort", None), settings.pop("response_format", None)
    fields = _renamed(settings, "max_tokens")
    if effort == "none":
        fields["thinking"] = {"type": "disabled"}
    elif effort is not None:
        fields["output_config"] = {"effort": effort}
    if wanted is not None and wanted["type"] == "json_schema":
        described = {"type": "json_schema", "schema": wanted["json_schema"]["schema"]}
        fields["output_config"] = {**fields.get("output_config", {}), "format": described}
    return fields


_FIELDS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "chat": _of_chat,
    "responses": _of_responses,
    "assistants": _of_chat,
    "anthropic": _of_messages,
}
"""Functions that return the fields of an API for settings; the tool choice is not among them."""
