"""Compare values with the schemas of OpenAI's OpenAPI description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DESCRIPTION = Path(__file__).parents[2] / "shared" / "data" / "openai-openapi.json"

KINDS: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip
# The schemas do not allow null here, but the examples in the same description contain it.
NULL_IN_EXAMPLES = ("usage", "user", "system_fingerprint")


class Schemas:
    """Report where a value does not match a schema; with `strict`, also fields that no schema names."""

    def __init__(self, described: Any, strict: bool = False) -> None:
        self._named = described["components"]["schemas"]
        self._strict = strict

    def faults(self, value: Any, schema: Any, where: str = "", whole: bool = True) -> list[str]:
        """Return what is wrong with a value; unless the schema is `whole`, it is one of several that name the fields."""
        if "$ref" in schema:
            return self.faults(value, self._named[schema["$ref"].rpartition("/")[2]], where, whole)
        if value is None and schema.get("nullable"):
            return []
        found = [fault for part in schema.get("allOf", []) for fault in self.faults(value, part, where, False)]
        for one_of in ("anyOf", "oneOf"):
            tried = [self.faults(value, part, where, whole) for part in schema.get(one_of, [])]
            found += min(tried, key=len) if tried else []
        kind = schema.get("type")
        if isinstance(kind, str) and (not isinstance(value, KINDS[kind]) or (kind != "boolean" and value is True)):
            return [*found, f"{where}: {value!r} is no {kind}"]
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{where}: {value!r} is none of {schema['enum']}")
        if isinstance(value, dict):
            found += self._of_fields(value, schema, where, whole)
        if isinstance(value, list) and "items" in schema:
            found += [f for i, each in enumerate(value) for f in self.faults(each, schema["items"], f"{where}[{i}]")]
        return found

    def _of_fields(self, value: dict[str, Any], schema: Any, where: str, whole: bool) -> list[str]:
        found = [f"{where}: lacks {name}" for name in schema.get("required", []) if name not in value]
        known = schema.get("properties", {})
        for name, part in known.items():
            if name in value and not (value[name] is None and name in NULL_IN_EXAMPLES):
                found += self.faults(value[name], part, f"{where}.{name}")
        if self._strict and whole and known and "allOf" not in schema and not schema.get("additionalProperties"):
            found += [f"{where}: has {name}" for name in value if name not in known]
        return found

    def known_fields(self, schema: Any) -> set[str]:
        """Return the names of the fields that an object of a schema may have."""
        if "$ref" in schema:
            return self.known_fields(self._named[schema["$ref"].rpartition("/")[2]])
        inner = [part for kind in ("allOf", "anyOf", "oneOf") for part in schema.get(kind, [])]
        return set(schema.get("properties", {})).union(*map(self.known_fields, inner))


def request_schema(described: Any, method: str, template: str) -> Any:
    """Return the schema of the body of a request to a route; None if the description has no such route or body."""
    import re

    shape = re.sub(r"\{[^}]*\}", "{}", template)
    for path, methods in described["paths"].items():
        if re.sub(r"\{[^}]*\}", "{}", path) == shape and method.lower() in methods:
            content = methods[method.lower()].get("requestBody", {}).get("content", {})
            return content.get("application/json", {}).get("schema")
    return None
