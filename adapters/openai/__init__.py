"""Provide the OpenAI backends and thread mirrors, and convert every exception of the SDK to a `Failure`."""

from .assistant import Assistants
from .assistants import AssistantsBackend
from .chat import ChatBackend
from .client import Client
from .definitions import tool_problems
from .looking import ProviderLook, SeenAssistant
from .mirrors import AssistantsThreads, ConversationThreads
from .responses import ResponsesBackend

__all__ = [
    "Assistants",
    "AssistantsBackend",
    "AssistantsThreads",
    "ChatBackend",
    "Client",
    "ConversationThreads",
    "ProviderLook",
    "ResponsesBackend",
    "SeenAssistant",
    "tool_problems",
]
