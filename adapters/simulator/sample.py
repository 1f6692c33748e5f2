"""Make the smallest JSON value that fits a schema, as the answer of a model that is called with a schema."""

from __future__ import annotations

import math
from typing import Any

from ..wire import Json

FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "email": "a@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
"""Values of the formats of texts that strict schemas support."""


class EndlessSchemaError(ValueError):
    """Raised when no finite value fits a schema, because it always contains itself."""


def smallest(schema: Any) -> Any:
    """Return the smallest value that fits a schema: required fields only, empty texts and lists, numbers near zero.

    Raises `EndlessSchemaError` if there is no such value.
    """
    sampler = _Sampler(schema)
    if sampler.height(schema) == math.inf:
        raise EndlessSchemaError("the schema always contains itself")
    return sampler.value(schema)


class _Sampler:
    """Make values of one schema, `root`, to which `$ref` refers."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._heights: dict[int, float] = {}
        self._open: set[int] = set()

    def height(self, schema: Any) -> float:
        """Return the levels of the smallest value, or infinity if the schema always contains itself."""
        key = id(schema)
        if key in self._heights:
            return self._heights[key]
        if key in self._open:
            return math.inf
        self._open.add(key)
        needed, choices = self._inner(schema)
        found = 1 + max(map(self.height, needed), default=0)
        found += min(map(self.height, choices), default=0)
        self._open.discard(key)
        # An infinite height may only be that of a schema inside itself.
        if found < math.inf:
            self._heights[key] = found
        return found

    def _inner(self, schema: Any) -> tuple[list[Any], list[Any]]:
        """Return the schemas of which a value needs all, and those of which it needs one."""
        if not isinstance(schema, dict) or "const" in schema or schema.get("enum"):
            return [], []
        if "$ref" in schema:
            return [self._referenced(schema["$ref"])], []
        fields = schema.get("properties", {})
        needed = [fields[name] for name in schema.get("required", ()) if name in fields]
        needed += [schema["items"]] if schema.get("minItems") and "items" in schema else []
        return [*needed, *schema.get("allOf", ())], schema.get("anyOf") or schema.get("oneOf") or []

    def value(self, schema: Any) -> Any:
        """Return the smallest value of a schema that has one."""
        if not isinstance(schema, dict):
            return None
        if "$ref" in schema:
            return self.value(self._referenced(schema["$ref"]))
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        choices = schema.get("anyOf") or schema.get("oneOf")
        if choices:
            return self.value(min(choices, key=self.height))
        if schema.get("allOf"):
            return self.value(self._merged(schema["allOf"]))
        kind = schema.get("type")
        return self._of_type(kind[0] if isinstance(kind, list) and kind else kind, schema)

    def _of_type(self, kind: Any, schema: Json) -> Any:
        match kind:
            case "string":
                return FORMATS.get(schema.get("format", ""), "").ljust(schema.get("minLength", 0), "x")
            case "integer" | "number":
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return False
            case "array":
                return [self.value(schema.get("items")) for _ in range(schema.get("minItems", 0))]
            case _ if kind == "object" or "properties" in schema:
                fields = schema.get("properties", {})
                return {name: self.value(fields.get(name)) for name in schema.get("required", ())}
        return None

    def _merged(self, schemas: list[Any]) -> Json:
        merged: Json = {}
        for each in schemas:
            part = self._referenced(each["$ref"]) if "$ref" in each else each
            fields = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", ()), *part.get("required", ())]
            merged |= part
            merged |= ({"properties": fields} if fields else {}) | ({"required": required} if required else {})
        return merged

    def _referenced(self, address: str) -> Any:
        found: Any = self._root
        for name in address.removeprefix("#").split("/")[1:]:
            found = found.get(name.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, dict) else {}
        return found


def _number(schema: Json, *, whole: bool) -> float | int:
    """Return the number nearest to zero within the bounds of a schema."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    if low <= 0 <= high and above < 0 < below:
        return 0
    step = schema.get("multipleOf") or (1 if whole else None)
    if step is not None:
        upwards = low > 0 or above >= 0
        nearest = _least_multiple(low, above, step) if upwards else -_least_multiple(-high, -below, step)
        return int(nearest * step) if whole else nearest * step
    if low > max(0, above):
        return float(low)
    if high < min(0, below):
        return float(high)
    # Between open bounds: in the middle, or one beyond the only one.
    if math.isfinite(above) and math.isfinite(below):
        return float((above + below) / 2)
    return float(above + 1 if above >= 0 else below - 1)


def _least_multiple(low: float, above: float, step: float) -> int:
    """Return the least factor of `step` that is at least `low` and greater than `above`."""
    least = [math.ceil(low / step)] if math.isfinite(low) else []
    least += [math.floor(above / step) + 1] if math.isfinite(above) else []
    return max(least)
