"""Create profiles from the fields of a file or of a call: check tools and settings (sampling, tool choice, format)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..arguments import is_number, short
from ..errors import InvalidMessage, InvalidProfile
from .parsing import plain_json
from .profiles import Profile

READ_ONLY, APPROVAL = "read_only", "approval"


def parse_profile(given: Mapping[str, Any], where: str, *, known: bool = False) -> Profile:
    """Create a profile from the fields of its file.

    A tool is `{name, description, parameters}` for a function, or `{type = "file_search"}` and the like for a hosted
    tool. `read_only = true` declares that a function changes nothing, so that it may be called again at any time;
    `approval = true` that a person has to approve each call.
    `settings` has what `PARSERS` lists. An empty `where` stands for a call: errors begin with what is wrong. A secret of a
    tool is named, see `tool_secrets.py`; tools that are `known` were checked or stored before.

    Raises:
        InvalidProfile: a field is invalid, or a tool holds a secret; the error names it and what is expected.
    """
    unknown = given.keys() - {"name", "instructions", "model", "tools", "settings"}
    if unknown:
        raise InvalidProfile(
            f"{where} has an unknown field {min(unknown)!r}: a profile has name, instructions, model, tools, settings"
        )
    place = f"{where}: " if where else ""
    for field in ("name", "instructions", "model"):
        if not isinstance(given.get(field, ""), str):
            raise InvalidProfile(f"{place}{field} is {type(given[field]).__name__}: give a string")
    tools, settings = given.get("tools", []), given.get("settings", {})
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise InvalidProfile(f"{place}tools is {type(tools).__name__}: give a list of tables, [[tools]]")
    if not isinstance(settings, Mapping):
        raise InvalidProfile(f"{place}settings is {type(settings).__name__}: give a table, [settings]")
    parsed = [_tool(_without_note(tool), place) for tool in tools]
    if settings:
        settings = parse_settings(settings, parsed, place)
    try:
        tools_json = plain_json(parsed, "its list of tools")
        settings_json = plain_json(settings, "its settings")
    except InvalidMessage as error:
        raise InvalidProfile(f"{place}{error}") from None
    if not known and any(tool["type"] != "function" for tool in parsed):
        from .tool_secrets import refuse_unnamed

        refuse_unnamed(parsed, place)
    return Profile(
        name=given.get("name") or "assistant",
        instructions=given.get("instructions", ""),
        model=given.get("model") or None,
        tools_json=tools_json,
        read_only=_noted(READ_ONLY, tools, parsed, place),
        approval=_noted(APPROVAL, tools, parsed, place),
        settings_json=settings_json,
    )


def _without_note(tool: object) -> object:
    """Return a tool without our own notes, as providers accept it."""
    notes = {READ_ONLY, APPROVAL}
    return {name: value for name, value in tool.items() if name not in notes} if isinstance(tool, Mapping) else tool


def _noted(name: str, given: Sequence[object], tools: Sequence[Mapping[str, Any]], place: str) -> tuple[str, ...]:
    """Return the names of the functions for which a note is true."""
    names = []
    for tool, parsed in zip(given, tools, strict=True):
        noted = tool.get(name, False) if isinstance(tool, Mapping) else False
        if not isinstance(noted, bool):
            raise InvalidProfile(f"{place}{name} is {type(noted).__name__}: give true or false")
        if noted and parsed["type"] == "function":
            names.append(str(parsed["function"]["name"]))
    return tuple(names)


def _tool(given: object, place: str) -> Mapping[str, Any]:
    tool: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    match tool:
        case {"type": "function", "function": {"name": str()}} | {"type": "file_search" | "code_interpreter"}:
            return tool
        case {"name": str(name), **rest} if rest.keys() <= {"description", "parameters"}:
            function = {"name": name, "description": rest.get("description", "")}
            parameters = rest.get("parameters", {"type": "object", "properties": {}})
            return {"type": "function", "function": function | {"parameters": parameters}}
        case {"type": "function", "name": str(), **rest}:
            return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
        case {"type": str(kind)} if kind != "function":
            return tool
    raise InvalidProfile(f"{place}a tool has neither a name nor a type: give name, description and parameters")


# Source of ranges and values: OpenAI's OpenAPI description distributed with openai-python 3.54 (`CreateResponse`,
# `CreateChatCompletionRequest`, `ReasoningEffort`). November 2026.
TEMPERATURE_MAX = 2
TOP_P_MAX = 1
OUTPUT_TOKENS_MIN = 16
"""Smallest limit of an answer, in tokens."""

REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
TOOL_CHOICES = ("auto", "none", "required")
FORMATS = ("text", "json_object", "json_schema")
FORMAT_NAME_CHARS_MAX = 64
"""Maximum length of the name of a schema, in characters."""


def parse_settings(given: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """Return the settings of a profile as they are stored; a setting that is None is left out.

    Args:
        given: the settings by name.
        tools: the tools of the profile, which a tool choice refers to.
        where: beginning of the messages of errors.

    Raises:
        InvalidProfile: a setting is unknown or invalid; the error names it and what is expected.
    """
    unknown = given.keys() - PARSERS.keys()
    if unknown:
        raise InvalidProfile(f"{where}there is no setting {min(unknown)!r}: use one of {', '.join(PARSERS)}")
    settings: dict[str, Any] = {}
    for name in (name for name in PARSERS if given.get(name) is not None):
        try:
            settings[name] = PARSERS[name](given[name])
        except ValueError as error:
            raise InvalidProfile(f"{where}{name}={short(given[name])} is not valid: {error}") from None
    _check_choice(settings.get("tool_choice"), tools, where)
    return settings


def _number(low: float, high: float) -> Callable[[Any], float]:
    def parse(given: Any) -> float:
        if not is_number(given) or not low <= given <= high:
            raise ValueError(f"give a number from {low:g} to {high:g}")
        return float(given) if isinstance(given, float) else int(given)

    return parse


def _tokens(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not OUTPUT_TOKENS_MIN <= given < 2**53:
        raise ValueError(f"give a whole number of tokens, at least {OUTPUT_TOKENS_MIN}")
    return given


def _effort(given: Any) -> str:
    if given not in REASONING_EFFORTS:
        raise ValueError(f"use one of {', '.join(REASONING_EFFORTS)}")
    return str(given)


def _choice(given: Any) -> str | dict[str, Any]:
    """Return a mode, or the tool that has to be called, in the form of Chat Completions."""
    match given:
        case str() if given in TOOL_CHOICES:
            return given
        case str() if given.strip():
            return {"type": "function", "function": {"name": given}}
        case {"type": "function", "name": str(name), **rest} if not rest:
            return {"type": "function", "function": {"name": name}}
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "function", "function": {"name": name}}
        case {"type": str(kind), **rest} if kind != "function" and not rest:
            return {"type": kind}
    raise ValueError(f"use one of {', '.join(TOOL_CHOICES)}, the name of a function, or its object")


def _check_choice(chosen: Any, tools: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse a choice among tools that the profile does not have.

    Raises:
        InvalidProfile: there is no such tool, or no tool at all.
    """
    if chosen in (None, "auto", "none"):
        return
    names = [str(tool.get("function", {}).get("name") or tool.get("type")) for tool in tools]
    if not names:
        raise InvalidProfile(f"{where}tool_choice={short(chosen)} is not valid: there are no tools to choose from")
    wanted = chosen if isinstance(chosen, str) else chosen.get("function", {}).get("name") or chosen["type"]
    if wanted != "required" and wanted not in names:
        raise InvalidProfile(f"{where}tool_choice names {wanted!r}: use one of the tools {', '.join(names)}")


def _format(given: Any) -> dict[str, Any]:
    """Return the format of answers in the form of Chat Completions; that of Responses is accepted too."""
    if not isinstance(given, Mapping) or given.get("type") not in FORMATS:
        raise ValueError(f"give a model class, or a dict whose type is one of {', '.join(FORMATS)}")
    if given["type"] != "json_schema":
        return {"type": given["type"]}
    described = given.get("json_schema") or {name: value for name, value in given.items() if name != "type"}
    name = described.get("name") if isinstance(described, Mapping) else None
    if not isinstance(name, str) or not _is_name(name) or not isinstance(described.get("schema"), Mapping):
        raise ValueError(
            'a json_schema needs {"name": …, "schema": {…}}, the name of letters, digits, underscores and dashes, '
            f"at most {FORMAT_NAME_CHARS_MAX}"
        )
    return {"type": "json_schema", "json_schema": dict(described)}


def _is_name(text: str) -> bool:
    rest = text.replace("_", "").replace("-", "")
    return 1 <= len(text) <= FORMAT_NAME_CHARS_MAX and text.isascii() and (rest.isalnum() or not rest)


PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "temperature": _number(0, TEMPERATURE_MAX),
    "top_p": _number(0, TOP_P_MAX),
    "max_output_tokens": _tokens,
    "reasoning_effort": _effort,
    "tool_choice": _choice,
    "response_format": _format,
}
"""The settings of a profile, in the order in which they are stored, with the functions that check them."""
