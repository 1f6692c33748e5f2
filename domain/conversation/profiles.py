"""Define profiles: the name, instructions, model and tools of an assistant, versioned by the hash of their content."""

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
    """Hold the name, instructions, model and tools of an assistant.

    `tools_json` is a JSON list in the format of Chat Completions' `tools`. `read_only` names the functions that change
    nothing; it is never sent to a provider, and no hash depends on it.
    """

    name: str = "assistant"
    instructions: str = ""
    model: str | None = None
    tools_json: str = "[]"
    read_only: tuple[str, ...] = ()

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Return the tools, newly created at each call."""
        tools: list[dict[str, Any]] = json.loads(self.tools_json)
        return tools

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 (hex) of the canonical content."""
        content = [self.name, self.instructions, self.model, self.tools]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_profile(given: Mapping[str, Any], where: str) -> Profile:
    """Create a profile from the fields of its file.

    A tool is `{name, description, parameters}` for a function, or `{type = "file_search"}` and the like for a hosted
    tool. `read_only = true` declares that a function changes nothing, so that it may be called again at any time.

    Raises:
        InvalidProfile: a field is invalid; the error names it and what is expected.
    """
    from .parsing import plain_json  # loads the messages, which a ledger without a profile may not need

    unknown = given.keys() - {"name", "instructions", "model", "tools"}
    if unknown:
        raise InvalidProfile(
            f"{where} has an unknown field {min(unknown)!r}: a profile has name, instructions, model, tools"
        )
    for field in ("name", "instructions", "model"):
        if not isinstance(given.get(field, ""), str):
            raise InvalidProfile(f"{where}: {field} is {type(given[field]).__name__}: give a string")
    tools = given.get("tools", [])
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise InvalidProfile(f"{where}: tools is {type(tools).__name__}: give a list of tables, [[tools]]")
    parsed = [_tool(_without_note(tool), where) for tool in tools]
    try:
        tools_json = plain_json(parsed, "its list of tools")
    except InvalidMessage as error:
        raise InvalidProfile(f"{where}: {error}") from None
    return Profile(
        name=given.get("name") or "assistant",
        instructions=given.get("instructions", ""),
        model=given.get("model") or None,
        tools_json=tools_json,
        read_only=_read_only(tools, parsed, where),
    )


def _without_note(tool: object) -> object:
    """Return a tool without `read_only`, as providers accept it."""
    return {name: value for name, value in tool.items() if name != READ_ONLY} if isinstance(tool, Mapping) else tool


def _read_only(given: Sequence[object], tools: Sequence[Mapping[str, Any]], where: str) -> tuple[str, ...]:
    names = []
    for tool, parsed in zip(given, tools, strict=True):
        noted = tool.get(READ_ONLY, False) if isinstance(tool, Mapping) else False
        if not isinstance(noted, bool):
            raise InvalidProfile(f"{where}: {READ_ONLY} is {type(noted).__name__}: give true or false")
        if noted and parsed["type"] == "function":
            names.append(str(parsed["function"]["name"]))
    return tuple(names)


def _tool(given: object, where: str) -> Mapping[str, Any]:
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
    raise InvalidProfile(f"{where}: a tool has neither a name nor a type: give name, description and parameters")
