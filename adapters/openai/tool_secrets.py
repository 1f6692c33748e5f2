"""Send the values of secrets that tools name, and check them before. A request whose tools name none loads none of this."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from threadledger.domain.conversation.tool_secrets import secret_names, secret_problem, with_values
from threadledger.domain.exchange import BackendRequest
from threadledger.domain.failures import Redacting

SDK_LOGGER = "openai._base_client"
"""Logger to which some versions of the SDK write the bodies of requests, at level DEBUG."""


def filled(tools: Sequence[dict[str, Any]], request: BackendRequest) -> list[dict[str, Any]]:
    """Return tools with the values of their secrets, as they are sent; no log shows the values from now on.

    Raises:
        ProviderRefused: a secret has no value.
    """
    logger = logging.getLogger(SDK_LOGGER)
    if not any(isinstance(each, Redacting) for each in logger.filters):
        logger.addFilter(Redacting())
    return with_values(tools, request.secret_of)


def refused_secret(kind: str, request: BackendRequest) -> str | None:
    """Return why the secrets of a request cannot be sent to an API of this kind; None if they can."""
    names = secret_names(request.profile.tools)
    if names and kind == "assistants":
        return f"an assistant is stored at the provider, and so would be the secret {names[0]}: use responses"
    return secret_problem(request.profile.tools, request.secret_of)
