"""Derive the ids of new objects from their request, map UUIDs to the form that the API shows, and read names in headers."""

from __future__ import annotations

import re
from hashlib import sha256

ID_DIGITS = 32
"""Number of hexadecimal digits after the prefix of an id: 128 bits."""

_DIGITS = re.compile(f"[0-9a-f]{{{ID_DIGITS}}}")


def new_id(prefix: str, request_key: str) -> str:
    """Return the id of the object that a request creates: the same for the same request, else another one.

    A request that creates several objects of a kind adds a number to its key.
    """
    digest = sha256(f"{prefix}\n{request_key}".encode("utf-8", "surrogatepass"))
    return prefix + digest.hexdigest()[:ID_DIGITS]


def wire_id(prefix: str, uuid_text: str) -> str:
    """Return the id under which the API shows an object that has a UUID: the prefix and the digits of the UUID."""
    return prefix + uuid_text.replace("-", "")


def uuid_in(prefix: str, wire_id: str) -> str | None:
    """Return the UUID, in lower case with hyphens, from which `wire_id` made an id; None if the id has another form."""
    digits = wire_id.removeprefix(prefix)
    if not wire_id.startswith(prefix) or _DIGITS.fullmatch(digits) is None:
        return None
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def header_text(value: str) -> str | None:
    """Return the text of a header's value, whose bytes were read as Latin-1 and are UTF-8; None if they are not."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None
