"""Name the message parts that an API does not take, so that a fallback can say what it is not given."""

from __future__ import annotations

import re
from collections.abc import Mapping

from threadledger.domain.conversation.messages import Role
from threadledger.domain.conversation.parts import Image, Text
from threadledger.domain.memory import Memory, shown_part

# Source: the unions of content parts in OpenAI's OpenAPI description distributed with openai-python 3.3.1, and what
# `adapters/anthropic/history.py` renders. November 2026.
TAKEN: Mapping[str, frozenset[str]] = {
    "chat": frozenset({"image_url", "file", "input_audio"}),
    "responses": frozenset({"image_url", "file"}),
    "anthropic": frozenset({"image_url"}),
}
"""Types of parts in a valid view that each kind of backend takes."""

ANTHROPIC_IMAGE = re.compile(r"https?://|data:image/(jpeg|png|gif|webp);base64,", re.IGNORECASE)


def lost_parts(kind: str, memory: Memory) -> list[str]:
    """Return `part:TYPE` for each type of which the view for this kind of backend shows no part, except as a text."""
    if kind not in TAKEN:
        return []
    is_lost: dict[str, bool] = {}
    for each in memory.messages:
        content = each.message.content
        for part in content if each.message.role is Role.USER and isinstance(content, tuple) else ():
            if isinstance(part, Text):
                continue
            name, shown = str(part.as_json().get("type", "content")), shown_part(part)
            in_words = shown.text if isinstance(shown, Text) else None  # some parts say something
            if kind == "anthropic" and isinstance(shown, Image) and not ANTHROPIC_IMAGE.match(shown.url):
                shown = Text(f"[{name} not shown]")
            is_taken = shown.as_json().get("type") in TAKEN[kind] or in_words not in {None, f"[{name} not shown]"}
            is_lost[name] = is_lost.get(name, True) and not is_taken
    return [f"part:{name}" for name in sorted(is_lost) if is_lost[name]]
