"""Check JSON schemas that a request declares as strict."""

from __future__ import annotations

from typing import Any

from .errors import ApiError, bad_request
from .validation import Json

KINDS = ("object", "array", "string", "number", "integer", "boolean", "null")


def require_strict(schema: Any, named: str, param: str) -> None:
    """Raise the provider's 400 unless every object of a schema lists all its properties as required and allows no other.

    `named` says what the schema is for, such as `response_format 'weather'`.
    """
    if not isinstance(schema, dict) or schema.get("type") != "object":
        kind = schema.get("type") if isinstance(schema, dict) else None
        problem = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
        raise _refused(named, problem, param)
    _check(schema, (), named, param)


def _check(schema: Any, place: tuple[str, ...], named: str, param: str) -> None:
    if not isinstance(schema, dict):
        raise _refused(named, f"In context={place!r}, schema must be an object.", param)
    if "properties" in schema or schema.get("type") == "object":
        _check_object(schema, place, named, param)
    elif not schema.keys() & {"type", "$ref", "anyOf", "enum", "const"}:
        raise _refused(named, f"In context={place!r}, schema must have a 'type' key.", param)
    if schema.get("type") == "array" and "items" not in schema:
        raise _refused(named, f"In context={place!r}, array schema missing items.", param)
    for name in ("oneOf", "allOf"):
        if name in schema:
            raise _refused(named, f"In context={place!r}, '{name}' is not permitted.", param)
    for name in ("$defs", "definitions", "properties"):
        for key, inner in (schema.get(name) or {}).items():
            _check(inner, (*place, name, key), named, param)
    for index, inner in enumerate(schema.get("anyOf") or []):
        _check(inner, (*place, "anyOf", str(index)), named, param)
    if "items" in schema:
        _check(schema["items"], (*place, "items"), named, param)


def _check_object(schema: Json, place: tuple[str, ...], named: str, param: str) -> None:
    if schema.get("additionalProperties") is not False:
        problem = f"In context={place!r}, 'additionalProperties' is required to be supplied and to be false."
        raise _refused(named, problem, param)
    required = schema.get("required") or []
    lacking = [name for name in schema.get("properties") or {} if name not in required]
    if lacking:
        problem = "'required' is required to be supplied and to be an array including every key in properties. "
        raise _refused(named, f"In context={place!r}, {problem}Missing '{lacking[0]}'.", param)


def _refused(named: str, problem: str, param: str) -> ApiError:
    return bad_request(f"Invalid schema for {named}: {problem}", param, "invalid_json_schema")
