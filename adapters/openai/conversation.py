"""Check whether a Conversation still exists. The API has no list of Conversations that could be read instead."""

from __future__ import annotations

from threadledger.domain import Effects, ProviderRefused

from .calls import call
from .client import Client
from .failures import calling, present


def is_there(client: Client, conversation_id: str) -> Effects[bool]:
    """Return whether the conversation can be retrieved; any refusal counts as missing."""
    try:
        with calling("GET /conversations/{conversation_id}", conversation_id):
            found = yield call(client, lambda sdk: sdk.conversations.retrieve(conversation_id))
            present(found.id)
    except ProviderRefused:
        return False
    return True
