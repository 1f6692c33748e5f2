"""What several sources share: content parts as Chat Completions has them, and large data by its size and hash."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

DATA_CHARS_MAX = 4_096
"""A text in a tool's record that is longer is kept by its size and hash: an image in base64, a file's content."""


def simplest(parts: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """Content of one piece of text as text, all other as parts."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return [dict(part) for part in parts]


def is_empty(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether parts say nothing at all."""
    return all(part.get("type") == "text" and not part.get("text") for part in parts)


def hosted_call(name: str, record: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """A call of a tool that the provider ran itself, as words: nobody else can be asked for its result."""
    left_out["hosted_calls_as_text"] += 1
    told = json.dumps(by_reference(record), ensure_ascii=False)
    return {"role": "assistant", "content": f"[tool call {name} {told}]"}


def by_reference(value: Any) -> Any:
    """The same JSON, in which long texts are replaced by their size and hash. Nesting deeper than JSON can be read is not
    met here: it was read."""
    if isinstance(value, str) and len(value) > DATA_CHARS_MAX:
        data = value.encode(errors="surrogatepass")
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if isinstance(value, Mapping):
        return {name: by_reference(each) for name, each in value.items()}
    if isinstance(value, list):
        return [by_reference(each) for each in value]
    return value


def data_by_reference(url: str) -> dict[str, Any] | None:
    """The kind, size and hash of a `data:` address; None for one that leads elsewhere."""
    if url[:5].lower() != "data:":
        return None
    head, _, data = url[5:].partition(",")
    try:
        content = base64.b64decode(data, validate=True) if head.endswith(";base64") else unquote_to_bytes(data)
    except ValueError:
        content = data.encode(errors="surrogatepass")
    kind = head.removesuffix(";base64") or "text/plain"
    return {"type": kind, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
