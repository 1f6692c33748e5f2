"""Check the parts of messages' content in every API: texts, images, audio and files; find the files that they name."""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Any

from .errors import ApiError, bad_request, missing
from .limits import (
    AUDIO_FORMATS,
    CHAT_IMAGE_DETAILS,
    FILE_DATA_MAX_CHARS,
    FILE_MEDIA_TYPES,
    IMAGE_DETAILS,
    IMAGE_MEDIA_TYPES,
    IMAGE_URL_MAX_CHARS,
    ITEM_TEXT_MAX_CHARS,
)
from .shapes import Check, anything, choice, decimal, listed, nullable, record, tagged, text, whole
from .validation import Json, an_object, optional_string, string

EXAMPLE_IMAGE = (
    "Expected a base64-encoded data URL with an image MIME type (e.g. 'data:image/png;base64,aW1nIGJ5dGVzIGhlcmU=')"
)
EXAMPLE_FILE = (
    "Expected a base64-encoded data URL with an application/pdf MIME type "
    "(e.g. 'data:application/pdf;base64,SGVsbG8sIFdvcmxkIQ==')"
)
# The first words of a refusal, which differ by API.
CHAT_IMAGE, CHAT_FILE, OTHER = "Invalid image URL", "Invalid file data", "Invalid"


def image_url(value: Any, where: str, maximum: int | None = None, *, words: str = OTHER) -> None:
    """Check the address of an image: http, https, or a data URL with base64 of a supported type."""
    if value is None:
        raise missing(where)
    address = string(value, where, maximum)
    if address.startswith("data:"):
        media_type, data = _split(address, where, words, EXAMPLE_IMAGE)
        if media_type not in IMAGE_MEDIA_TYPES:
            raise _refused(where, words, EXAMPLE_IMAGE, f"unsupported MIME type '{media_type}'")
        _require_base64(data, where, words, EXAMPLE_IMAGE)
    elif not address.startswith(("http://", "https://")) or not address.partition("://")[2]:
        problem = f"{words} '{where}'. Expected a valid URL, but got a value with an invalid format."
        raise bad_request(problem.replace("URL '", "URL: '"), where, "invalid_value")


def file_data(value: Any, where: str, maximum: int | None = None, *, words: str = OTHER) -> None:
    """Check the data of a file: base64, or a data URL with base64 of a document's type."""
    data = string(value, where, maximum)
    if data.startswith("data:"):
        media_type, data = _split(data, where, words, EXAMPLE_FILE)
        if not media_type.startswith(FILE_MEDIA_TYPES):
            raise _refused(where, words, EXAMPLE_FILE, f"unsupported MIME type '{media_type}'")
    _require_base64(data, where, words, EXAMPLE_FILE)


def _split(address: str, where: str, words: str, example: str) -> tuple[str, str]:
    head, comma, data = address.partition(",")
    media_type, _, encoding = head.removeprefix("data:").partition(";")
    if not comma or encoding.rpartition(";")[2] != "base64":
        raise _refused(where, words, example, "a value without the ';base64,' marker")
    return media_type.lower(), data


def _require_base64(data: str, where: str, words: str, example: str) -> None:
    if not data:
        raise _refused(where, words, example, "empty base64-encoded bytes")
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise _refused(where, words, example, "an invalid base64-encoded value") from None


def _refused(where: str, words: str, example: str, problem: str) -> ApiError:
    colon = ":" if words != OTHER else ""
    return bad_request(f"{words}{colon} '{where}'. {example}, but got {problem}.", where, "invalid_value")


# Chat Completions


def _chat_image(value: Any, where: str) -> None:
    image_url(value, where, words=CHAT_IMAGE)


def _chat_file_data(value: Any, where: str) -> None:
    file_data(value, where, words=CHAT_FILE)


def _audio_data(value: Any, where: str) -> None:
    example = "Expected base64-encoded audio"
    _require_base64(string(value, where), where, OTHER, example)


def _chat_file(value: Any, where: str) -> None:
    given = an_object(value, where)
    if given.get("file_url") is not None:
        problem = "Inputs by file URL are not supported for chat completions. Use the ResponsesAPI for this option."
        raise bad_request(problem, f"{where}.file_url", "unsupported_parameter")
    record({}, {"file_id": nullable(text()), "file_data": nullable(_chat_file_data), "filename": nullable(text())})(
        given, where
    )
    _require_one(given, where, ("file_id", "file_data"))
    _require_name(given, where)


def _require_one(given: Json, where: str, names: tuple[str, ...]) -> None:
    found = [name for name in names if optional_string(given, name)]
    if not found:
        raise missing(f"{where}.{names[0]}")
    if len(found) > 1:
        listed_names = ", ".join(f"'{name}'" for name in names)
        problem = f"Mutually exclusive parameters: Ensure you are only providing one of: {listed_names}."
        raise bad_request(problem, f"{where}.{found[1]}", "mutually_exclusive_parameters")


def _require_name(given: Json, where: str) -> None:
    if given.get("file_data") is not None and not optional_string(given, "filename"):
        raise missing(f"{where}.filename")


def _chat_part(kind: str, check: Check) -> Check:
    return record({"type": anything, kind: check}, {"prompt_cache_breakpoint": anything})


CHAT_PARTS: dict[str, Check] = {
    "text": _chat_part("text", text()),
    "refusal": _chat_part("refusal", text()),
    "image_url": _chat_part(
        "image_url", record({"url": _chat_image}, {"detail": nullable(choice(*CHAT_IMAGE_DETAILS))})
    ),
    "input_audio": _chat_part("input_audio", record({"data": _audio_data, "format": choice(*AUDIO_FORMATS)})),
    "file": _chat_part("file", _chat_file),
}
"""Checks of the parts of Chat Completions by type; which of them a message may have depends on its role."""


# Responses and conversations


def _input_image(value: Any, where: str) -> None:
    given = an_object(value, where)
    names = {"image_url": nullable(_response_image), "file_id": nullable(text())}
    detail: dict[str, Check] = {"detail": nullable(choice(*IMAGE_DETAILS)), "prompt_cache_breakpoint": anything}
    record({"type": anything}, names | detail)(given, where)
    _require_one(given, where, ("image_url", "file_id"))


def _response_image(value: Any, where: str) -> None:
    image_url(value, where, IMAGE_URL_MAX_CHARS)


def _response_file_data(value: Any, where: str) -> None:
    file_data(value, where, FILE_DATA_MAX_CHARS)


def _file_address(value: Any, where: str) -> None:
    if not string(value, where).startswith(("http://", "https://")):
        raise bad_request(f"Invalid '{where}'. Expected a valid URL.", where, "invalid_value")


def _input_file(value: Any, where: str) -> None:
    given = an_object(value, where)
    names: dict[str, Check] = {"file_id": nullable(text()), "file_data": nullable(_response_file_data)}
    names |= {"file_url": nullable(_file_address), "filename": nullable(text())}
    names |= {"detail": nullable(choice(*CHAT_IMAGE_DETAILS)), "prompt_cache_breakpoint": anything}
    record({"type": anything}, names)(given, where)
    _require_one(given, where, ("file_id", "file_data", "file_url"))
    _require_name(given, where)


_INDEXES: dict[str, Check] = {"start_index": whole(0), "end_index": whole(0)}
ANNOTATION = tagged(
    {
        "file_citation": record({"type": anything, "file_id": text(), "index": whole(0), "filename": text()}),
        "url_citation": record({"type": anything, "url": text(), "title": text(), **_INDEXES}),
        "container_file_citation": record(
            {"type": anything, "container_id": text(), "file_id": text(), "filename": text(), **_INDEXES}
        ),
        "file_path": record({"type": anything, "file_id": text(), "index": whole(0)}),
    }
)
"""Check of an annotation of an output text."""

LOGPROB = record(
    {"token": text(), "logprob": decimal()},
    {"bytes": nullable(listed(whole(0, 255), of="integers")), "top_logprobs": listed(anything)},
)
"""Check of the probability of a token."""

ITEM_PARTS: dict[str, Check] = {
    "input_text": record({"type": anything, "text": text(ITEM_TEXT_MAX_CHARS)}, {"prompt_cache_breakpoint": anything}),
    "input_image": _input_image,
    "input_file": _input_file,
    "output_text": record(
        {"type": anything, "text": text(ITEM_TEXT_MAX_CHARS)},
        {"annotations": nullable(listed(ANNOTATION)), "logprobs": nullable(listed(LOGPROB))},
    ),
    "refusal": record({"type": anything, "refusal": text(ITEM_TEXT_MAX_CHARS)}),
}
"""Checks of the parts of items by type; which of them an item may have depends on its role."""


def stored_part(part: Json) -> Json:
    """Return a checked part of an item in the form in which the provider keeps it, with its default values."""
    match part["type"]:
        case "output_text":
            kept = {"annotations": part.get("annotations") or [], "logprobs": part.get("logprobs") or []}
            return {"type": "output_text", "text": part["text"], **kept}
        case "input_image":
            return {name: value for name, value in part.items() if value is not None} | {
                "detail": part.get("detail") or "auto"
            }
        case _:
            return {name: value for name, value in part.items() if value is not None}


# Files that content names


_NAMING = frozenset(("input_image", "input_file", "file", "image_file"))


def files_named(listed: list[Any], where: str) -> Iterator[tuple[str, str]]:
    """Yield the ids of the files that messages, items or parts name as input, each with the name of its field.

    Annotations are left out: an answer may cite a file that has been deleted since.
    """
    for index, each in enumerate(listed):
        # Most messages of a long history are texts: do not look further into those.
        if isinstance(each, dict) and (_is_naming(each) or any(map(_is_naming, _inner(each)))):
            yield from _named(each, f"{where}[{index}]")


def _inner(value: Json) -> list[Any]:
    inner = value.get("content", value.get("output"))
    return inner if isinstance(inner, list) else []


def _is_naming(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") in _NAMING


def _named(value: Json, where: str) -> Iterator[tuple[str, str]]:
    match value.get("type"):
        case "input_image" | "input_file":
            yield from _id_in(value, where)
        case "file" | "image_file" as kind:
            yield from _id_in(value.get(kind), f"{where}.{kind}")
    for name in ("content", "output"):
        if isinstance(value.get(name), list):
            yield from files_named(value[name], f"{where}.{name}")


def _id_in(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and isinstance(value.get("file_id"), str) and value["file_id"]:
        yield value["file_id"], f"{where}.file_id"
