"""Implement the backend `anthropic`: the Messages API. It is stateless, needs no thread, and sends the memory with each run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from threadledger.domain.exchange import BackendOptions, BackendRequest

from ..openai import ChatBackend, Context
from .client import AnthropicClient
from .history import request_of
from .replies import MessagesFold, read_message

if TYPE_CHECKING:
    from threadledger.domain.memory import Memory

ENDPOINT = "POST /v1/messages"

MAX_TOKENS_DEFAULT = 8_192
"""Maximum number of tokens of an answer, which the API requires. Source: the smallest limit that the SDK (anthropic 2.14)
knows for an answer that is not streamed, `MODEL_NONSTREAMING_TOKENS`."""


class AnthropicBackend(ChatBackend):
    """Answer an exchange by the Messages API.

    The loop over tool calls, the deadlines and the streams are those of Chat Completions.
    """

    dialect = "anthropic"
    _resource = "messages"
    _context = Context("anthropic", ENDPOINT, reader=read_message, fold=MessagesFold)
    _streaming: Mapping[str, Any] = {"stream": True}

    def __init__(
        self,
        client: AnthropicClient,
        name: str = "anthropic",
        max_tokens: int = MAX_TOKENS_DEFAULT,
        parameters: Mapping[str, Any] | None = None,
        options: BackendOptions | None = None,
    ) -> None:
        """Create the backend.

        Args:
            client: the connection to the provider.
            name: the backend's name in the chain and in the journal.
            max_tokens: maximum number of tokens of an answer; an answer that reaches it is incomplete.
            parameters: further fields of each request, such as `temperature`; they win over the others.
            options: how a named backend is set, instead of `name` and `parameters`.
        """
        super().__init__(client, options or BackendOptions(name, extra=parameters or {}))
        self._max_tokens = max_tokens

    def _entries(self, memory: Memory) -> list[dict[str, Any]]:
        return memory.chat_entries("anthropic", self._client.files_place)

    def _options(self, request: BackendRequest, messages: list[Any], deadline: float, number: int) -> dict[str, Any]:
        tools, extra = self._extra(request, number)
        rendered = request_of(messages, tools)
        options = {"model": request.model, "max_tokens": self._max_tokens, **rendered}
        return options | {"timeout": max(deadline - time.monotonic(), 0.001)} | extra
