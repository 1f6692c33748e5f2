"""Make the documents of `ask`: the answer to a question, the failed runs without one, and the parts of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadledger.domain.errors import AllBackendsFailed
    from threadledger.domain.exchange import Answer, StreamPart


def answer_document(answer: Answer) -> dict[str, Any]:
    """Return the JSON object of an answer; docs/commands.md lists the keys under `ask`."""
    return {
        "key": answer.key,
        "exchange_id": answer.exchange_id,
        "answer": answer.text,
        "backend": answer.backend,
        "model": answer.model,
        "run_id": answer.run_id,
        "fallback": answer.fallback,
        "failures": [failure.as_json() for failure in answer.failures],
        "version": answer.version,
        "usage": answer.usage.as_json(),
        "message_id": answer.message_id,
        "selected": answer.selected,
        "pending": [{"call_id": call.id, "name": call.name, "arguments": call.arguments} for call in answer.pending],
        "dropped": list(answer.dropped),
        "losses": dict(answer.losses),
    }


def failed_answer_document(error: AllBackendsFailed) -> dict[str, Any]:
    """Return the JSON object of a question without an answer; its keys are those of an answer."""
    nothing = dict.fromkeys(("answer", "backend", "model", "run_id", "version", "usage", "message_id", "selected"))
    failures = [failure.as_json() for failure in error.failures]
    ids = {"key": error.key, "exchange_id": error.exchange_id}
    return {**ids, **nothing, "fallback": False, "failures": failures, "dropped": [], "losses": {}, "pending": []}


def part_document(part: StreamPart) -> dict[str, Any]:
    """Return the JSON object of one part of a stream, with its `type`; the last part is the answer."""
    if part.type == "answer":
        return answer_document(part) | {"type": part.type}
    return {name: getattr(part, name) for name in part.__dataclass_fields__}
