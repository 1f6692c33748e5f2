"""Keys and the streams they name. A key is the app's own; a stream is where its events stand."""

from .errors import InvalidInput, InvalidKey
from .limits import IDEMPOTENCY_KEY_CHARS_MAX, KEY_CHARS_MAX
from .parsing import plain_json

CONVERSATION = "conversation:"
PROFILE = "profile:"
JOB = "job:"

IMPORTED = "import:"
"""What the idempotency keys of imported messages begin with; an app's own may not."""


def stream_of(key: object) -> str:
    """The stream that holds a conversation's events.

    Raises:
        InvalidKey: the key is not 1 to 200 characters, or has characters that no database stores.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARS_MAX:
        found = f"{len(key)} characters" if isinstance(key, str) else f"type {type(key).__name__}"
        raise InvalidKey(
            f"a conversation key of {found} cannot be used: give a string of 1 to {KEY_CHARS_MAX} characters"
        )
    if "\0" in key or any("\ud800" <= character <= "\udfff" for character in key):
        raise InvalidKey(f"the conversation key {key!a} holds a NUL or half a character: give whole UTF-8 text")
    return CONVERSATION + key


def key_of(stream: str) -> str:
    """The key of a conversation's stream; other streams are named as they are."""
    return stream.removeprefix(CONVERSATION)


def check_idempotency_key(idempotency_key: str) -> None:
    """Raises InvalidInput where the key is empty, too long, or not storable."""
    if not 1 <= len(idempotency_key) <= IDEMPOTENCY_KEY_CHARS_MAX:
        raise InvalidInput(
            f"an idempotency key of {len(idempotency_key)} characters cannot be used: "
            f"give 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters"
        )
    if idempotency_key.startswith(IMPORTED):
        raise InvalidInput(f"idempotency keys that begin with {IMPORTED!r} are those of imports: choose another one")
    plain_json(idempotency_key, "the idempotency key")
