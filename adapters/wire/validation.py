"""Check the fields of request bodies in the ways that several APIs share; each check raises the provider's 400."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .errors import bad_request, missing, wrong_type, wrong_value
from .limits import (
    FUNCTION_NAME_MAX_CHARS,
    FUNCTION_NAME_PATTERN,
    METADATA_KEY_MAX_CHARS,
    METADATA_PAIRS_MAX,
    METADATA_VALUE_MAX_CHARS,
)

Json = dict[str, Any]

_noting: ContextVar[Callable[[str], None] | None] = ContextVar("noting", default=None)


@contextmanager
def unknown_fields_noted(note: Callable[[str], None]) -> Iterator[None]:
    """Ignore fields that the API does not have while the context lasts; `note` is called with each field's full name.

    The checks remove such fields from the body of the request. Without the context, such fields are refused.
    """
    token = _noting.set(note)
    try:
        yield
    finally:
        _noting.reset(token)


def unknown_field(name: str) -> None:
    """Raise a 400 for a field that the API does not have, or note it where such fields are ignored."""
    note = _noting.get()
    if note is None:
        raise bad_request(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    note(name)


def only_known(body: Json, known: Iterable[str], where: str = "") -> None:
    """Raise a 400 for a field that the API does not have, or note it and remove it; `where` is put before its name."""
    allowed = frozenset(known)
    for name in [*body]:
        if name not in allowed:
            unknown_field(f"{where}{name}")
            del body[name]


def metadata_of(body: Json) -> dict[str, str]:
    """Return the `metadata` field, or {} if it is absent or null."""
    pairs = body.get("metadata")
    if pairs is None:
        return {}
    if not isinstance(pairs, dict):
        raise wrong_type("metadata", "an object", pairs)
    if len(pairs) > METADATA_PAIRS_MAX:
        raise bad_request(
            f"Invalid 'metadata': too many properties. Expected an object with at most {METADATA_PAIRS_MAX} "
            f"properties, but got an object with {len(pairs)} properties instead.",
            "metadata",
            "object_above_max_properties",
        )
    for key, value in pairs.items():
        if len(key) > METADATA_KEY_MAX_CHARS:
            raise bad_request(
                f"Invalid property name in 'metadata': string too long. Expected a string with maximum length "
                f"{METADATA_KEY_MAX_CHARS}, but got a string with length {len(key)} instead.",
                "metadata",
                "string_above_max_length",
            )
        string(value, f"metadata.{key}", METADATA_VALUE_MAX_CHARS)
    return dict(pairs)


def string(value: Any, param: str, maximum: int | None = None) -> str:
    """Return `value` if it is a string of at most `maximum` characters."""
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    if maximum is not None and len(value) > maximum:
        raise bad_request(
            f"Invalid '{param}': string too long. Expected a string with maximum length {maximum}, "
            f"but got a string with length {len(value)} instead.",
            param,
            "string_above_max_length",
        )
    return value


def flag(body: Json, name: str) -> bool:
    """Return a boolean field, or False if it is absent or null."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def stream_options(body: Json, known: Iterable[str]) -> Json:
    """Return the `stream_options` field, or {} if it is absent or null.

    The field is refused if `stream` is not true.
    """
    given = body.get("stream_options")
    if given is None:
        return {}
    options, known = an_object(given, "stream_options"), frozenset(known)
    if not flag(body, "stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise bad_request(message, "stream_options")
    for name in options:
        if name not in known:
            unknown_field(f"stream_options.{name}")
    return {name: flag(options, name) for name in options if name in known}


def optional_string(body: Json, name: str, maximum: int | None = None) -> str | None:
    """Return a string field, or None if it is absent or null."""
    return None if body.get(name) is None else string(body[name], name, maximum)


def required_string(body: Json, name: str, param: str | None = None, maximum: int | None = None) -> str:
    """Return a string field that must be present; `param` is its full name in error messages."""
    if body.get(name) is None:
        raise missing(param or name)
    return string(body[name], param or name, maximum)


def one_of(value: Any, param: str, supported: Sequence[str]) -> str:
    """Return `value` if it is one of the supported strings."""
    if not isinstance(value, str) or value not in supported:
        raise wrong_value(param, value, supported)
    return value


def array(value: Any, param: str, maximum: int | None = None, of: str = "objects") -> list[Any]:
    """Return `value` if it is an array of at most `maximum` elements; `of` says in the plural what they are."""
    if not isinstance(value, list):
        raise wrong_type(param, f"an array of {of}", value)
    if maximum is not None and len(value) > maximum:
        raise bad_request(
            f"Invalid '{param}': array too long. Expected an array with maximum length {maximum}, "
            f"but got an array with length {len(value)} instead.",
            param,
            "array_above_max_length",
        )
    return value


def an_object(value: Any, param: str) -> Json:
    """Return `value` if it is an object."""
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    return value


def identifier(value: str, param: str, prefix: str) -> str:
    """Return `value` if it has the prefix of its kind of id; this does not check that the object exists."""
    if not value.startswith(prefix):
        message = f"Invalid '{param}': '{value}'. Expected an ID that begins with '{prefix.rstrip('_')}'."
        raise bad_request(message, param, "invalid_value")
    return value


def function_name(value: Any, param: str) -> str:
    """Return `value` if it is a function's name."""
    if value is None:
        raise missing(param)
    name = string(value, param, FUNCTION_NAME_MAX_CHARS)
    if not re.fullmatch(FUNCTION_NAME_PATTERN, name):
        message = f"Invalid '{param}': string does not match pattern. Expected a string that matches the pattern "
        raise bad_request(f"{message}'^{FUNCTION_NAME_PATTERN}$'.", param, "invalid_value")
    return name


def function_arguments(value: Any, param: str) -> str:
    """Return `value` if it is the text of a JSON object.

    OpenAI accepts any text. vLLM, SGLang and llama.cpp read it as JSON and refuse all later requests with it, and
    Anthropic's `input` is an object.
    """
    if value is None:
        raise missing(param)
    text = string(value, param)
    try:
        parsed = json.loads(text)
        text.encode()
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise bad_request(f"Invalid '{param}': {error}.", param, "invalid_value") from None
    if not isinstance(parsed, dict):
        raise wrong_type(param, "a JSON object in text", parsed)
    return text
