"""Check the definitions of an app's tools before they are sent: their names and the schemas of their parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .tools import FUNCTION_NAME

JSON_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
SCHEMA_DEPTH_MAX = 20
"""Maximum depth to which a schema is checked."""


def tool_problems(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Return the problems of tool definitions (in the format of Chat Completions), one sentence each."""
    functions = [_function(tool) for tool in tools if tool.get("type") == "function"]
    names = Counter(str(function.get("name")) for function in functions)
    for name, times in names.items():
        if times > 1:
            yield f"{times} functions are named {name!r}: give each function a unique name"
    for function in functions:
        given = function.get("name")
        if not isinstance(given, str) or not FUNCTION_NAME.fullmatch(given):
            yield f"{given!r} is not a valid function name: use 1 to 64 letters, digits, underscores or dashes"
        yield from (f"parameters of {given!r}: {problem}" for problem in _of_parameters(function.get("parameters")))


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _of_parameters(parameters: Any) -> Iterator[str]:
    if parameters is None:
        return  # a function without parameters
    if not isinstance(parameters, Mapping):
        yield f"the value is of type {type(parameters).__name__}, not a JSON schema"
    elif parameters.get("type") != "object" or not isinstance(parameters.get("properties"), Mapping):
        yield 'the schema is not an object with properties: use {"type": "object", "properties": {…}}'
    else:
        yield from _of_schema(parameters, "", SCHEMA_DEPTH_MAX)


def _of_schema(schema: Any, place: str, depth: int) -> Iterator[str]:
    where = f"{place or 'the schema'}"
    if not isinstance(schema, Mapping):
        if not isinstance(schema, bool):
            yield f"{where} is of type {type(schema).__name__}, not a schema"
        return
    given = schema.get("type", "object")
    types = given if isinstance(given, list) else [given]
    unknown = [each for each in types if not isinstance(each, str) or each not in JSON_TYPES]
    if unknown:
        yield f"{where} has the type {unknown[0]!r}, which is not a JSON type: use one of {', '.join(sorted(JSON_TYPES))}"
    properties = schema.get("properties", {})
    if not isinstance(properties, Mapping):
        yield f"the properties of {where} are not an object"
        return
    required = schema.get("required", [])
    if not isinstance(required, list):
        yield f"the 'required' value of {where} is not a list of names"
    elif missing := [name for name in required if name not in properties and "properties" in schema]:
        yield f"{where} requires {missing[0]!r}, which is not one of its properties"
    if depth:
        for name, inner in properties.items():
            yield from _of_schema(inner, f"{place}.{name}" if place else str(name), depth - 1)
        if "array" in types and "items" in schema:
            yield from _of_schema(schema["items"], f"{where}[]", depth - 1)
