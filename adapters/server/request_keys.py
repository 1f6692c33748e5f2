"""Find a request that a client sends again, so that it stores nothing twice.

A request with an `Idempotency-Key` is the same as an earlier one with that key. The SDKs send none, but say in
`x-stainless-retry-count` that they repeat a request: it is the same as the newest one of the same key, path and body whose
response was not completely sent. So two equal messages that a client was told of stay two.

A server that was killed may have sent responses without noting it. A client that did something else in the thread since then
has its response: a request that is sent again afterwards is another one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from threadledger.domain.errors import IdempotencyConflict
from threadledger.domain.ids import new_id

from ..wire import IncomingRequest
from ..wire.errors import bad_request
from .calls import ServedCall
from .ids import header_text
from .limits import IDEMPOTENCY_KEY_MAX_CHARS
from .refusals import KEY_REUSED
from .tenants import key_of

if TYPE_CHECKING:
    from .runner import Runner

RETRY_COUNT = "x-stainless-retry-count"
IDEMPOTENCY_KEY = "idempotency-key"
MAKING_THREADS = frozenset(
    {
        *("create_thread", "create_thread_and_run", "create_conversation", "create_response"),
        *("create_file", "create_vector_store"),
    }
)
"""Operations whose requests are often equal among the users of an app, such as a new thread without messages, or the same file;
a response makes a conversation if it names none and no response.

Two users must never get one thread, or one file, which either could delete: such a request is the same as an earlier one only if
this server knows that its client left."""

LOST_MAX = 10_000
"""Maximum number of responses that are remembered as not sent; the oldest ones are forgotten first."""


class RequestKeys:
    """Give each request its key, and remember those whose response is not sent yet."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._in_progress: dict[str, list[ServedCall]] = {}
        """Requests in progress, the newest last, by fingerprint."""
        self._lost: dict[str, None] = {}
        """Keys of requests whose response this process could not send, the newest last."""

    def begin(self, call: ServedCall, incoming: IncomingRequest) -> None:
        """Set the key of a request that may store something, before it is handled.

        Raises:
            ApiError: a 400, because its `Idempotency-Key` is not valid.
            IdempotencyConflict: the key was used for another request.
        """
        sent = incoming.upload.digest if incoming.upload is not None else incoming.body
        call.fingerprint = fingerprint = _fingerprint(call, incoming.method, incoming.path, sent)
        given = key_given(call)
        if given is not None:
            call.request_key, call.repeated = given, True
            known = self._runner.notes.fingerprint_of(call.request_key)
            call.stored = known == fingerprint
            if known is not None and known != fingerprint:
                raise IdempotencyConflict(KEY_REUSED)
        else:
            found = self._unsent(call) if _is_retry(call.request_headers) else None
            call.request_key, call.repeated = found or new_id(), found is not None
            call.stored = found is not None and self._runner.notes.fingerprint_of(found) is not None
        call.also = self._runner.notes.note(call.request_key, fingerprint)
        with self._lock:
            self._in_progress.setdefault(fingerprint, []).append(call)

    def sent(self, call: ServedCall) -> None:
        """Note that the client got the whole response, as far as is known."""
        self._end(call)
        with self._lock:
            self._lost.pop(call.request_key, None)
        if IDEMPOTENCY_KEY not in call.request_headers:
            self._runner.sent(call.request_key)

    def unsent(self, call: ServedCall) -> None:
        """Note that a request has ended, and the client did not get its response."""
        self._end(call)
        with self._lock:
            self._lost[call.request_key] = None
            if len(self._lost) > LOST_MAX:
                del self._lost[next(iter(self._lost))]

    def _end(self, call: ServedCall) -> None:
        with self._lock:
            others = [each for each in self._in_progress.get(call.fingerprint, ()) if each is not call]
            if others:
                self._in_progress[call.fingerprint] = others
            else:
                self._in_progress.pop(call.fingerprint, None)

    def _unsent(self, call: ServedCall) -> str | None:
        """Return the key of the request that is sent again; None if it is not known, or the client has its response."""
        thread_id = call.ids.get("thread_id") or call.ids.get("conversation_id") or _conversation_in(call)
        is_continuing = thread_id is not None or call.body.get("previous_response_id") is not None
        is_thread_made = not is_continuing and call.route is not None and call.route.operation in MAKING_THREADS
        with self._lock:
            keys = [
                each.request_key
                for each in self._in_progress.get(call.fingerprint, ())
                if each.gone.is_set() or not is_thread_made
            ]
            if keys:
                return keys[-1]
        found = self._runner.unsent(call.fingerprint)
        with self._lock:
            if found is None or found in self._lost:
                return found
        if thread_id is None:
            return None if is_thread_made else found
        return None if self._runner.has_followers(key_of(call.caller, thread_id), found) else found


def _conversation_in(call: ServedCall) -> str | None:
    """Return the conversation that the body of a request for a response names."""
    given = call.body.get("conversation")
    name = given.get("id") if isinstance(given, dict) else given
    return name if isinstance(name, str) and name else None


def key_given(call: ServedCall) -> str | None:
    """Return the key of a request that has an `Idempotency-Key`: a hash of that and of the tenant; None if it has none.

    The hash is stored with what the request stores.

    Raises:
        ApiError: a 400.
    """
    given = call.request_headers.get(IDEMPOTENCY_KEY)
    if given is None:
        return None
    said = header_text(given)
    if said is None or not said.isprintable() or not 1 <= len(said) <= IDEMPOTENCY_KEY_MAX_CHARS:
        raise bad_request(
            f"Invalid 'Idempotency-Key': give 1 to {IDEMPOTENCY_KEY_MAX_CHARS} printable characters, in UTF-8.",
            None,
            "invalid_value",
        )
    return hashlib.sha256(f"{call.caller.tenant}\n{given}".encode("utf-8", "surrogatepass")).hexdigest()


def _fingerprint(call: ServedCall, method: str, path: str, body: bytes) -> str:
    digest = hashlib.sha256()
    for each in (call.caller.tenant.encode(), call.caller.name.encode(), method.encode(), path.encode(), body):
        digest.update(b"%d:" % len(each) + each)
    return digest.hexdigest()


def _is_retry(headers: Mapping[str, str]) -> bool:
    count = headers.get(RETRY_COUNT, "")
    return count.isascii() and count.isdigit() and int(count[:9]) > 0
