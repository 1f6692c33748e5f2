"""Name the secrets of tools: `{"secret": "NAME"}` stands for the value of THREADLEDGER_SECRET_NAME.

A profile, its hash and everything that shows it hold the name. The value is put in its place when a request is built, and is
never stored. The `function` of a tool describes arguments and holds no secrets, whatever its fields are called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import InvalidInput, InvalidProfile, ProviderRefused
from ..failures import Cause, Failure, keep_secret, redact
from ..limits import SECRET_CHARS_MIN
from .profiles import Profile

FIELD = "secret"
VARIABLE = Profile.VARIABLE

NAME_CHARS_MAX = 64
"""Maximum length of the name of a secret, in characters."""

SecretLookup = Callable[[str], str | None]
"""Function that returns the value of a named secret; None if it has none."""

_SCHEMAS = frozenset({"function", "parameters", "input_schema", "definition"})
"""Fields that describe arguments, whose fields may have any name."""

_NAME = re.compile(rf"[A-Z][A-Z0-9_]{{0,{NAME_CHARS_MAX - 1}}}")
_USER_IN_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://[^/?#]*@", re.IGNORECASE)
_PLACE_CHARS_MAX = 200


class _Found(NamedTuple):
    """Hold a secret that a tool has in a field: its name, or its value."""

    place: str
    name: str | None = None
    value: str = ""


def refuse_unnamed(tools: Iterable[Mapping[str, Any]], where: str = "") -> None:
    """Check that tools hold no secret, which would be stored with the profile.

    Args:
        tools: definitions of tools.
        where: beginning of the message of the error.

    Raises:
        InvalidProfile: a tool holds a secret, or the name of one is not valid. The message does not show it.
    """
    for tool in tools:
        for found in _secrets_of(tool):
            if found.name is not None and _is_name(found.name) and redact(found.name) == found.name:
                continue
            kind, place = tool.get("type"), redact(found.place, _PLACE_CHARS_MAX)
            if found.name is not None:
                raise InvalidProfile(
                    f"{where}the tool {kind!r} names a secret in {place} that is not a name: use capital letters, digits and "
                    f"underscores, at most {NAME_CHARS_MAX}, and set its value as {VARIABLE}NAME"
                )
            instead = f'write {{"{FIELD}": "NAME"}} in place of {place}'
            if _USER_IN_ADDRESS.match(found.value):
                instead = (
                    f'remove user and password from {place}, write {{"{FIELD}": "NAME"}} as the value of authorization or '
                    "of a header"
                )
            raise InvalidProfile(
                f"{where}the tool {kind!r} holds a secret, which would be stored with the profile: {instead}, and set "
                f"{VARIABLE}NAME in the environment or in .env"
            )


def secret_names(tools: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the secrets of tools, each once."""
    found = (each.name for tool in tools for each in _secrets_of(tool))
    return list(dict.fromkeys(name for name in found if name is not None and _is_name(name)))


def unnamed_values(tools: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the secrets that tools hold themselves, such as those of a request that the app sends, and their parts."""
    found = [each.value for tool in tools for each in _secrets_of(tool) if each.name is None]
    return [part for value in found for part in _parts_of(value)]


def secret_problem(tools: Iterable[Mapping[str, Any]], lookup: SecretLookup) -> str | None:
    """Return why the secrets of tools cannot be sent, and how to fix it; None if they can."""
    for name in secret_names(tools):
        try:
            value = lookup(name)
        except InvalidInput as refusal:  # the working folder is not trusted
            return str(refusal)
        if value is None:
            return (
                f"a tool needs the secret {name}, and {VARIABLE}{name} is not set: set it in the environment or in .env"
            )
        if len(value.strip().rpartition(" ")[2]) < SECRET_CHARS_MIN:  # behind the scheme
            return (
                f"{VARIABLE}{name} has fewer than {SECRET_CHARS_MIN} characters, and so short a secret could not be removed "
                "from failures and logs: set a longer one"
            )
    return None


def with_values(tools: Iterable[Mapping[str, Any]], lookup: SecretLookup) -> list[dict[str, Any]]:
    """Return tools with the values of their secrets, as a request sends them. No text shows the values from now on.

    Raises:
        ProviderRefused: a secret has no value.
    """
    given = list(tools)
    problem = secret_problem(given, lookup)
    if problem is not None:
        raise ProviderRefused(Failure("refused", code=Cause.ASSISTANT_MISCONFIGURED.value, message=problem))
    values = {name: lookup(name) or "" for name in secret_names(given)}
    for part in (part for value in values.values() for part in _parts_of(value)):
        keep_secret(part, inside_words=True)
    return [
        {key: _filled(each, key, values) if key not in _SCHEMAS else each for key, each in tool.items()}
        for tool in given
    ]


def is_secret(value: object) -> bool:
    """Return whether a value is a secret by its name: `{"secret": "NAME"}`."""
    return isinstance(value, Mapping) and value.keys() == {FIELD} and isinstance(value[FIELD], str)


def _parts_of(value: str) -> list[str]:
    """Return a secret, and what in it is one by itself: a token behind its scheme (`Bearer TOKEN`), user and password."""
    address = _USER_IN_ADDRESS.match(value)
    user = address[0].partition("://")[2].rpartition("@")[0].split(":") if address is not None else []
    return [value, value.rpartition(" ")[2], *user]


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _secrets_of(tool: object) -> Iterator[_Found]:
    for key, value in tool.items() if isinstance(tool, Mapping) else ():  # a profile given in code may hold anything
        if key not in _SCHEMAS:
            yield from _found_in(value, str(key), str(key), _holds_secrets_only(key))


def _found_in(value: object, key: str, place: str, all_secret: bool) -> Iterator[_Found]:
    """Yield the secrets in the value of a field. In `authorization` and `headers` every text is one (`all_secret`)."""
    if isinstance(value, Mapping):
        if is_secret(value) and not _is_table(key):
            yield _Found(place, value[FIELD])
            return
        for inner, each in value.items():
            if inner not in _SCHEMAS:
                is_value = key.lower().endswith("secrets") and inner == "value"  # as in `domain_secrets`
                is_secret_field = all_secret or is_value or _holds_secrets_only(inner)
                yield from _found_in(each, str(inner), f"{place}.{inner}", is_secret_field)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in value:
            yield from _found_in(each, key, place, all_secret)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        text = str(value)
        if text and (all_secret or _is_secret_text(text, key)) and not _is_mask(text):
            yield _Found(place, value=text)


def _is_secret_text(text: str, key: str) -> bool:
    """Return whether a text is a secret by the name of its field or by its shape; the data of an image has no shape of one."""
    seen = "data:" if text.startswith("data:") else text
    return redact(seen, len(seen) + 1, key) != seen or _USER_IN_ADDRESS.match(text) is not None


def _is_mask(text: str) -> bool:
    """Return whether a text stands for a secret that was removed, as in exported tests."""
    return redact(text, name=FIELD) == text


def _holds_secrets_only(key: object) -> bool:
    return str(key).lower() == "authorization" or _is_table(str(key))


def _is_table(key: str) -> bool:
    """Return whether a field holds headers by their names, so that `secret` in it is the name of a header."""
    return key.lower().endswith("headers")


def _filled(value: Any, key: str, values: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        if is_secret(value) and not _is_table(key):
            return values.get(value[FIELD], value)
        return {
            inner: _filled(each, str(inner), values) if inner not in _SCHEMAS else each for inner, each in value.items()
        }
    return [_filled(each, key, values) for each in value] if isinstance(value, list) else value
