"""Define profiles: the name, instructions, model, tools and settings of an assistant, versioned by the hash of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import InvalidMessage, InvalidProfile

READ_ONLY = "read_only"


@dataclass(frozen=True)
class Profile:
    """Hold the name, instructions, model, tools and settings of an assistant.

    `tools_json` is a JSON list in the format of Chat Completions' `tools`. `read_only` names the functions that change
    nothing; it is never sent to a provider, and no hash depends on it. `settings_json` is a JSON object: sampling, tool
    choice and the format of answers, see `settings.py`.
    """

    name: str = "assistant"
    instructions: str = ""
    model: str | None = None
    tools_json: str = "[]"
    read_only: tuple[str, ...] = ()
    settings_json: str = "{}"

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings, newly created at each call; most profiles have none."""
        settings: dict[str, Any] = json.loads(self.settings_json) if self.settings_json != "{}" else {}
        return settings

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Return the tools, newly created at each call."""
        tools: list[dict[str, Any]] = json.loads(self.tools_json)
        return tools

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 (hex) of the canonical content; settings are part of it only if there are any."""
        content = [self.name, self.instructions, self.model, self.tools, *filter(None, [self.settings])]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_profile(given: Mapping[str, Any], where: str) -> Profile:
    """Create a profile from the fields of its file.

    A tool is `{name, description, parameters}` for a function, or `{type = "file_search"}` and the like for a hosted
    tool. `read_only = true` declares that a function changes nothing, so that it may be called again at any time.
    `settings` has what `settings.py` lists. An empty `where` stands for a call: errors begin with what is wrong.

    Raises:
        InvalidProfile: a field is invalid; the error names it and what is expected.
    """
    from .parsing import plain_json  # loads the messages, which a ledger without a profile may not need

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
        from .settings import parse_settings

        settings = parse_settings(settings, parsed, place)
    try:
        tools_json = plain_json(parsed, "its list of tools")
        settings_json = plain_json(settings, "its settings")
    except InvalidMessage as error:
        raise InvalidProfile(f"{place}{error}") from None
    return Profile(
        name=given.get("name") or "assistant",
        instructions=given.get("instructions", ""),
        model=given.get("model") or None,
        tools_json=tools_json,
        read_only=_read_only(tools, parsed, place),
        settings_json=settings_json,
    )


def _without_note(tool: object) -> object:
    """Return a tool without `read_only`, as providers accept it."""
    return {name: value for name, value in tool.items() if name != READ_ONLY} if isinstance(tool, Mapping) else tool


def _read_only(given: Sequence[object], tools: Sequence[Mapping[str, Any]], place: str) -> tuple[str, ...]:
    names = []
    for tool, parsed in zip(given, tools, strict=True):
        noted = tool.get(READ_ONLY, False) if isinstance(tool, Mapping) else False
        if not isinstance(noted, bool):
            raise InvalidProfile(f"{place}{READ_ONLY} is {type(noted).__name__}: give true or false")
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
