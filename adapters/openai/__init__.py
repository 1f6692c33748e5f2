"""OpenAI: backends, thread mirrors, and every failure of its SDK as facts."""

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
