"""Provide the backend `anthropic`: the Messages API, by Anthropic's SDK."""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .backend import AnthropicBackend
    from .client import AnthropicClient
    from .history import request_of
    from .replies import MessagesFold, read_message

__all__ = [
    "AnthropicBackend",
    "AnthropicClient",
    "MessagesFold",
    "read_message",
    "request_of",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "backend": "AnthropicBackend",
            "client": "AnthropicClient",
            "history": "request_of",
            "replies": "MessagesFold read_message",
        },
    )
