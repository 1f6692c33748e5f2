"""Read the replies of the Messages API on the wire: a complete message, or the events of a stream."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation.items import block_message, objects, text_in
from threadledger.domain.conversation.messages import Usage

from ..openai import Context, EventFold, Seen, answered, whole

REFUSED = "refusal"
FILTERED = "content_filter"
"""Stop reason of an answer that the provider withheld, and the name under which its failure is diagnosed."""


def read_message(body: dict[str, Any], context: Context) -> Seen:
    """Read the answer or the failure in a complete message."""
    lost: Counter[str] = Counter()
    reason, usage, remote_id = _text(body.get("stop_reason")), usage_of(body.get("usage")), _text(body.get("id"))
    outcome = answered(
        block_message(body.get("content"), lost),
        context,
        body,
        finish_reason=FILTERED if reason == REFUSED else reason,
        remote_id=remote_id,
        model=_text(body.get("model")),
        usage=usage,
        losses=lost,
    )
    return Seen(outcome, remote_id, usage=usage)


def usage_of(given: Any) -> Usage:
    """Read the token counts. Tokens that were read from or written to the cache are counted separately on the wire; they are
    input. If a count is not a number, the usage is unknown: all 0."""
    usage: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    counts = [usage.get(name) or 0 for name in names]
    counts.append(_mapping(usage.get("output_tokens_details")).get("thinking_tokens") or 0)
    if not all(type(count) is int and count >= 0 for count in counts):
        return Usage()
    new, written, read, output, thinking = counts
    return Usage(new + written + read, output, cached_tokens=read, reasoning_tokens=thinking)


class MessagesFold(EventFold):
    """Read the events of a stream: blocks arrive in parts, and the reason to stop comes with the last usage."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._facts: dict[str, Any] = {"id": None, "model": None, "stop_reason": None, "usage": {}}
        self._blocks: dict[Any, dict[str, Any]] = {}
        """Content blocks by their index."""

    def event(self, name: str, data: Any) -> None:
        kind, index = data.get("type") or name, data.get("index")
        if kind == "message_start":
            self._know(data.get("message"))
        elif kind == "content_block_start":
            self._begin(index, _mapping(data.get("content_block")))
        elif kind == "content_block_delta":
            self._add(index, _mapping(data.get("delta")))
        elif kind == "message_delta":
            self._know({**_mapping(data.get("delta")), "usage": data.get("usage")})
        elif kind == "message_stop":
            self.is_over = True
            self._done()

    def end(self, code: str = "stream_ended", message: str = "the stream ended without its last event") -> Seen:
        """Return the answer if the reason to stop was received: it is complete even without the last event."""
        self._apply(self._events.end())
        self._done()
        return super().end(code, message)

    def closed(self) -> Seen:
        self._done()
        return super().closed()

    def _know(self, message: Any) -> None:
        given = _mapping(message)
        self._facts |= {name: given[name] for name in ("id", "model", "stop_reason") if given.get(name)}
        self._facts["usage"] = {**self._facts["usage"], **_mapping(given.get("usage"))}
        self.seen = replace(self.seen, remote_id=_text(self._facts["id"]), usage=usage_of(self._facts["usage"]))

    def _begin(self, index: Any, block: Mapping[str, Any]) -> None:
        self._blocks[index] = {**block, "text": ""} if block.get("type") == "text" else dict(block)
        self._add(index, {"type": "text_delta", "text": block.get("text")})

    def _add(self, index: Any, delta: Mapping[str, Any]) -> None:
        text, arguments = delta.get("text"), delta.get("partial_json")
        cited = delta.get("citation")
        block = self._blocks.setdefault(index, {"type": "tool_use" if isinstance(arguments, str) else "text"})
        if isinstance(text, str) and text and block.get("type") == "text":
            block["text"] = block.get("text", "") + text
            self._say(text)
        if isinstance(arguments, str) and arguments:
            written = block.get("input")
            block["input"] = (written if isinstance(written, str) else "") + arguments
        for name in ("thinking", "signature"):
            if isinstance(delta.get(name), str):
                block[name] = text_in(block.get(name)) + delta[name]
        if isinstance(cited, dict):
            block["citations"] = [*objects(block.get("citations")), cited]

    def _done(self) -> None:
        if self._facts["stop_reason"] is not None and self.seen.outcome is None:
            for block in self._blocks.values():
                if block.get("type") != "tool_use" and isinstance(block.get("input"), str):
                    with suppress(ValueError, RecursionError):  # a call of the provider's own tool
                        block["input"] = json.loads(block["input"])
            message = whole({**self._facts, "content": list(self._blocks.values())})
            self.seen = read_message(message, self.context)


def _mapping(given: Any) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
