"""Build Chat Completions content parts for all sources, and replace large data by its size and hash."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

DATA_CHARS_MAX = 4_096
"""Maximum length of a text in a tool record, in characters. Longer ones (base64 images, files) are replaced by size and hash."""


def simplest(parts: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """Return content as a string if it is a single text part, else as a list of parts."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return [dict(part) for part in parts]


def is_empty(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the parts contain nothing but empty text."""
    return all(part.get("type") == "text" and not part.get("text") for part in parts)


def hosted_call(name: str, record: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """Return a call of a provider-hosted tool as an assistant message with text, because only the provider can run it."""
    left_out["hosted_calls_as_text"] += 1
    told = json.dumps(by_reference(record), ensure_ascii=False)
    return {"role": "assistant", "content": f"[tool call {name} {told}]"}


def by_reference(value: Any) -> Any:
    """Return the JSON value with long texts replaced by their size and hash.

    Recursion is safe: the value was parsed from JSON, and the parser limits its depth.
    """
    if isinstance(value, str) and len(value) > DATA_CHARS_MAX:
        data = value.encode(errors="surrogatepass")
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if isinstance(value, Mapping):
        return {name: by_reference(each) for name, each in value.items()}
    if isinstance(value, list):
        return [by_reference(each) for each in value]
    return value


def data_by_reference(url: str) -> dict[str, Any] | None:
    """Return the media type, size and hash of a `data:` URL, or None for any other URL."""
    if url[:5].lower() != "data:":
        return None
    head, _, data = url[5:].partition(",")
    try:
        content = base64.b64decode(data, validate=True) if head.endswith(";base64") else unquote_to_bytes(data)
    except ValueError:
        content = data.encode(errors="surrogatepass")
    kind = head.removesuffix(";base64") or "text/plain"
    return {"type": kind, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
