"""Convert the messages of threads: what a request says to messages of a conversation, and back to the API's objects."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.items import thread_message
from threadledger.domain.conversation.messages import JournaledMessage, Message, Role, Source
from threadledger.domain.conversation.parts import Audio, File, Image, Part, Text, Verbatim
from threadledger.domain.ids import from_iso

from ..wire import Json, bodies, fields, objects, validation
from .hosted_tools import SERVER_RUN, checked_attachments
from .ids import wire_id
from .serve_settings import ServeSettings

MESSAGE, RUN = "msg_", "run_"
SHOWN_ROLES = frozenset({Role.USER.value, Role.ASSISTANT.value})
INLINE_BYTES_MAX = 1024 * 1024
"""Size up to which the bytes of an image are in the object of its message, in bytes; of a larger one it has a text."""

ANNOTATIONS = frozenset({"file_citation", "file_path"})
"""Annotations that the API has. Source: openai-python 3.54, types/beta/threads/annotation.py."""


def said(body: Json, settings: ServeSettings, where: str = "") -> tuple[Message, dict[str, str]]:
    """Return the message in a request and its metadata; `where` is put before field names in error messages.

    Raises:
        ApiError: a 400.
        InvalidMessage: the message cannot be stored.
    """
    validation.only_known(body, fields.THREAD_MESSAGE_FIELDS, where)
    role, content = bodies.message_role(body, where), bodies.message_content(body, where)
    attachments, _ = checked_attachments(body.get("attachments"), settings, f"{where}attachments")
    metadata = validation.metadata_of(body)
    given = thread_message({"role": role, "content": content})
    if attachments:
        given["attachments"] = body["attachments"]  # as they were given: also what is not used is kept
    return parse_message(given), metadata


HIDDEN = frozenset({"reasoning", "hosted_call", "unknown"})
"""Types of parts that a message does not show: what the model did besides speaking."""


def is_shown(message: JournaledMessage) -> bool:
    """Return whether a thread shows a message: what a user or the model said, without calls and results of functions."""
    if message.role_name not in SHOWN_ROLES or message.is_summary:
        return False
    if says_anything(message.message):
        return True
    is_imported = message.source is Source.IMPORT and bool(message.message.content)
    return not is_imported and not message.message.calls()


def says_anything(message: Message) -> bool:
    """Return whether the content of a message has anything that the API shows."""
    content = message.content
    if isinstance(content, tuple):
        return any(not isinstance(part, Verbatim) or part.as_json().get("type") not in HIDDEN for part in content)
    return bool(content)


def message_id_of(message: JournaledMessage) -> str:
    """Return the id under which the API shows a message: that at its source, if it was imported, else its own."""
    given = message.origin.get("message_id")
    return given if isinstance(given, str) and given else wire_id(MESSAGE, message.message_id)


def run_id_of(message: JournaledMessage) -> str | None:
    """Return the id of the run that said a message; a rerun is a run of its own."""
    if message.source is Source.IMPORT:
        given = message.origin.get("run_id")
        return given if isinstance(given, str) and given else None
    if message.run_id is None:
        return None
    named = message.run_id if message.source is Source.RERUN else message.exchange_id or message.run_id
    return wire_id(RUN, named)


def seconds(moment: datetime) -> int:
    """Return a moment in Unix seconds, as the API's objects have it."""
    return int(moment.timestamp())


def written(message: JournaledMessage) -> int:
    """Return when a message was written, in Unix seconds."""
    return seconds(from_iso(message.written_at))


def message_object(
    message: JournaledMessage,
    thread_id: str,
    read_blob: Callable[[str], Iterator[bytes]],
    *,
    assistant_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Json:
    """Return the API's object of a message; `metadata` is what was said of it since."""
    content = [each for part in _parts_of(message.message) for each in _part(part, read_blob)]
    made = objects.thread_message(message_id_of(message), written(message), thread_id, message.role_name, content)
    own = message.metadata if metadata is None else metadata
    imported = message.origin.get("metadata") if metadata is None and not own else None
    made["metadata"] = texts_in(imported if isinstance(imported, dict) else own)
    made["run_id"] = run_id_of(message)
    given = message.origin.get("assistant_id")
    made["assistant_id"] = given if isinstance(given, str) else assistant_id
    extra, is_imported = message.message.extra(), message.source is Source.IMPORT
    attachments = extra.get("attachments")
    if isinstance(attachments, list):
        files = [each for each in attachments if isinstance(each, dict) and isinstance(each.get("file_id"), str)]
        made["attachments"] = files if is_imported else [_attached(each) for each in files]
    if is_imported and isinstance(extra.get("incomplete_details"), dict):
        ended = {"status": "incomplete", "completed_at": None, "incomplete_at": made["created_at"]}
        made |= ended | {"incomplete_details": extra["incomplete_details"]}
    return made


def _attached(given: Json) -> Json:
    """Return an attachment as a message shows it: with the tools that the server runs."""
    tools = given.get("tools")
    kept = [each for each in tools if each.get("type") in SERVER_RUN] if isinstance(tools, list) else []
    return {"file_id": given["file_id"], "tools": kept}


def texts_in(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return metadata as the API has it: texts; any other value is left out."""
    return {name: value for name, value in metadata.items() if isinstance(value, str)}


def _parts_of(message: Message) -> Sequence[Part]:
    if isinstance(message.content, tuple):
        return message.content
    refusal = message.extra().get("refusal")
    text = message.content or ""
    return (Text(text),) if text or not refusal else ()


def _part(part: Part, read_blob: Callable[[str], Iterator[bytes]]) -> Iterator[Json]:
    match part:
        case Text():
            made = objects.text_part(part.text)
            noted = [each for each in part.as_json().get("annotations", []) if each.get("type") in ANNOTATIONS]
            made["text"]["annotations"] = noted
            yield made
        case Image() if part.blob and part.file_id:
            yield {"type": "image_file", "image_file": {"file_id": part.file_id, "detail": part.detail or "auto"}}
        case Image() if part.url or (part.blob and part.size <= INLINE_BYTES_MAX):
            detail = part.detail if part.detail in ("low", "high", "auto") else "auto"
            yield {
                "type": "image_url",
                "image_url": {"url": part.url or data_url(part.media_type, part.blob, read_blob), "detail": detail},
            }
        case Image():
            yield objects.text_part(f"[an image of {part.size:,} bytes]")
        case File():
            yield objects.text_part(f"[a file: {part.filename or part.url or part.file_id or part.media_type}]")
        case Audio():
            yield objects.text_part("[a recording]")
        case _:
            yield from _other(part.as_json())


def _other(part: Json) -> Iterator[Json]:
    match part:
        case {"type": "refusal", "refusal": str(refusal)}:
            yield {"type": "refusal", "refusal": refusal}
        case {"type": "image_file", "image_file": {"file_id": str()}}:
            yield part
        case {"type": str(kind)} if kind in HIDDEN:
            return
        case _:
            yield objects.text_part(f"[{part.get('type') or 'a part of another kind'}]")


def data_url(media_type: str, address: str, read_blob: Callable[[str], Iterator[bytes]]) -> str:
    """Return stored bytes as the address of data."""
    data = base64.b64encode(b"".join(read_blob(address))).decode("ascii")
    return f"data:{media_type or 'application/octet-stream'};base64,{data}"
