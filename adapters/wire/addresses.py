"""Resolve the paths of OpenAI and of Azure OpenAI, which lead to the same objects.

| path | served by |
|---|---|
| `/v1/threads` | OpenAI |
| `/openai/v1/threads` | Azure, without a version |
| `/openai/threads?api-version=…` | Azure, with a version |
| `/openai/deployments/{model}/chat/completions?api-version=…` | Azure; the path names the model |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ApiError

API_PREFIX = "/v1"
AZURE_PREFIX = "/openai"
AZURE_V1_PREFIX = "/openai/v1"


@dataclass(frozen=True)
class Address:
    """Represent a request path without its prefix, as the route table has it.

    `deployment` is the model that an Azure path names, or None.
    """

    path: str
    azure: bool = False
    deployment: str | None = None


def address_of(path: str, query: Mapping[str, str]) -> Address | None:
    """Return the address of a request, or None if no API has the path's prefix.

    Raises `ApiError` (404) for an Azure path without `api-version`.
    """
    if path.startswith(f"{API_PREFIX}/"):
        return Address(path.removeprefix(API_PREFIX))
    if path.startswith(f"{AZURE_V1_PREFIX}/"):
        return Address(path.removeprefix(AZURE_V1_PREFIX), azure=True)
    if not path.startswith(f"{AZURE_PREFIX}/"):
        return None
    if not query.get("api-version"):
        raise ApiError(404, "Resource not found", code="404")
    inner = path.removeprefix(AZURE_PREFIX)
    parts = inner.split("/", 3)
    if len(parts) == 4 and parts[1] == "deployments":
        return Address(f"/{parts[3]}", azure=True, deployment=parts[2])
    return Address(inner, azure=True)
