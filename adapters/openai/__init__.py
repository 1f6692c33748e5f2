"""Provide the OpenAI backends and thread mirrors, and convert every exception of the SDK to a `Failure`."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .assistant_setup import Assistants
    from .assistants import AssistantsBackend
    from .chat import ChatBackend
    from .client import Client
    from .doctor import ProviderLook
    from .failures import failure_of, failure_of_event
    from .responses import ResponsesBackend
    from .thread_import import ThreadReader
    from .threads import AssistantsThreads, ConversationThreads
    from .tools import tool_problems

__all__ = [
    "Assistants",
    "AssistantsBackend",
    "AssistantsThreads",
    "ChatBackend",
    "Client",
    "ConversationThreads",
    "ProviderLook",
    "ResponsesBackend",
    "ThreadReader",
    "failure_of",
    "failure_of_event",
    "tool_problems",
]

_EARLIER = {
    "doctor": "SeenAssistant",
}
"""Names that earlier versions offered here."""

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "assistant_setup": "Assistants",
            "assistants": "AssistantsBackend",
            "chat": "ChatBackend",
            "client": "Client",
            "doctor": "ProviderLook",
            "failures": "failure_of failure_of_event",
            "responses": "ResponsesBackend",
            "thread_import": "ThreadReader",
            "threads": "AssistantsThreads ConversationThreads",
            "tools": "tool_problems",
        },
        _EARLIER,
    )
