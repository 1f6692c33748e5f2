"""Map the ids of threads to the keys of conversations, within what a caller reaches."""

from __future__ import annotations

from threadledger.domain.conversation import stream_of
from threadledger.domain.conversation.tenants import TENANT_NAME, key_in_tenant, tenant_key
from threadledger.domain.errors import InvalidKey

from ..wire.errors import no_such
from .calls import Caller

__all__ = ["TENANT_NAME", "key_of", "reaches", "thread_id_of"]


def key_of(caller: Caller, thread_id: str) -> str:
    """Return the key of the conversation that is a thread of the caller.

    Raises:
        ApiError: a 404, because no thread of the caller can have this id.
    """
    key = tenant_key(caller.tenant, thread_id)
    try:
        stream_of(key)
    except InvalidKey:
        raise no_such("thread", thread_id) from None
    if not thread_id or not reaches(caller, key):
        raise no_such("thread", thread_id)
    return key


def reaches(caller: Caller, key: str) -> bool:
    """Return whether a conversation is one of the caller's."""
    return key_in_tenant(caller.tenant, key) is not None


def thread_id_of(caller: Caller, key: str) -> str:
    """Return the id of the thread that a conversation is to the caller.

    Raises:
        ValueError: the conversation is not one of the caller's.
    """
    thread_id = key_in_tenant(caller.tenant, key)
    if thread_id is None:
        raise ValueError(f"the conversation {key!a:.80} is not one of the tenant {caller.tenant!r}")
    return thread_id
