"""Read and write the JSON that msgspec cannot: lone surrogates, and values of subclasses of JSON's types.

Loaded on first use: older versions stored half characters as escapes, and few texts contain any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any


def object_in(text: bytes | str) -> dict[str, Any]:
    """Return the object in a JSON text.

    Raises:
        ValueError, TypeError: the text is not exactly one JSON object.
    """
    value = json.loads(text if isinstance(text, str) else text.decode())
    if not isinstance(value, dict):
        raise TypeError("the payload is not a JSON object")
    return value


def ascii_text(value: Any) -> str:
    """Return a JSON value as ASCII text without spaces.

    Raises:
        ValueError: it contains a number that is not finite.
        TypeError: it contains a value that JSON does not have.
    """
    return _encode(value)


def is_finite(value: Any) -> bool:
    """Return whether every number in a JSON value is finite."""
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(is_finite, value))


_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
