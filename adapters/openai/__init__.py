"""Provide the OpenAI backends and thread mirrors, and convert every exception of the SDK to a `Failure`."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .assistant_setup import Assistants
    from .assistants import AssistantsBackend
    from .bodies import Context, Seen, answered, read_body
    from .chat import ChatBackend
    from .client import Client, request_id_in
    from .doctor import ProviderLook
    from .failures import failure_of, failure_of_event, failure_of_response
    from .folds import EventFold, Fold, fold_of
    from .messages import INSTRUCTIONS, chat_messages, kept, response_messages, thread_messages, whole
    from .responses import ResponsesBackend
    from .run_bodies import with_messages
    from .thread_import import ThreadReader
    from .threads import AssistantsThreads, ConversationThreads
    from .tool_calls import answer_calls
    from .tool_definitions import tool_problems

__all__ = [
    "INSTRUCTIONS",
    "Assistants",
    "AssistantsBackend",
    "AssistantsThreads",
    "ChatBackend",
    "Client",
    "Context",
    "ConversationThreads",
    "EventFold",
    "Fold",
    "ProviderLook",
    "ResponsesBackend",
    "Seen",
    "ThreadReader",
    "answer_calls",
    "answered",
    "chat_messages",
    "failure_of",
    "failure_of_event",
    "failure_of_response",
    "fold_of",
    "kept",
    "read_body",
    "request_id_in",
    "response_messages",
    "thread_messages",
    "tool_problems",
    "whole",
    "with_messages",
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
            "bodies": "Context Seen answered read_body",
            "chat": "ChatBackend",
            "client": "Client request_id_in",
            "doctor": "ProviderLook",
            "failures": "failure_of failure_of_event failure_of_response",
            "messages": "INSTRUCTIONS chat_messages kept response_messages thread_messages whole",
            "responses": "ResponsesBackend",
            "folds": "EventFold Fold fold_of",
            "run_bodies": "with_messages",
            "thread_import": "ThreadReader",
            "threads": "AssistantsThreads ConversationThreads",
            "tool_definitions": "tool_problems",
            "tool_calls": "answer_calls",
        },
        _EARLIER,
    )
