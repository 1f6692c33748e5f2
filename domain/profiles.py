"""A profile: what an assistant is made of. Our own data, versioned by the hash of its content."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidMessage, InvalidProfile
from .parsing import plain_json


@dataclass(frozen=True)
class Profile:
    """Name, instructions, model and tools. `tools_json` is a JSON list in the form of Chat Completions' `tools`."""

    name: str = "assistant"
    instructions: str = ""
    model: str | None = None
    tools_json: str = "[]"

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools, made anew at each call."""
        tools: list[dict[str, Any]] = json.loads(self.tools_json)
        return tools

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over the canonical content."""
        content = [self.name, self.instructions, self.model, self.tools]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_profile(given: Mapping[str, Any], where: str) -> Profile:
    """A profile from the fields of its file.

    A tool is `{name, description, parameters}` for a function, or `{type = "file_search"}` and the like for a hosted one.

    Raises:
        InvalidProfile: naming the field and what is expected.
    """
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
    try:
        tools_json = plain_json([_tool(tool, where) for tool in tools], "its list of tools")
    except InvalidMessage as error:
        raise InvalidProfile(f"{where}: {error}") from None
    return Profile(
        name=given.get("name") or "assistant",
        instructions=given.get("instructions", ""),
        model=given.get("model") or None,
        tools_json=tools_json,
    )


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
