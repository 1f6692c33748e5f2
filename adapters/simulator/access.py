"""Check the API key and the beta header, and refuse requests in the provider's words."""

from collections.abc import Mapping

from .errors import ApiError

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
AZURE_WRONG_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)


def require_key(headers: Mapping[str, str], expected: str | None, *, azure: bool = False) -> None:
    """Raise a 401 if a request has no key, or not the `expected` key if one is set.

    Azure also accepts the key in the `api-key` header.
    """
    if azure and headers.get("api-key"):
        if expected is not None and headers["api-key"] != expected:
            raise ApiError(401, AZURE_WRONG_KEY, code="401")
        return
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise ApiError(401, NO_KEY)
    if expected is not None and key.strip() != expected:
        message = f"Incorrect API key provided: {masked(key.strip())}. You can find your API key at "
        raise ApiError(401, message + "https://platform.openai.com/account/api-keys.", code="invalid_api_key")


def require_beta(headers: Mapping[str, str], api: str) -> None:
    """Raise a 400 for an Assistants request without the `OpenAI-Beta: assistants=v2` header, which the SDK sends."""
    if api == "assistants" and "assistants=v2" not in headers.get("openai-beta", ""):
        message = (
            "You must provide the 'OpenAI-Beta' header to access the Assistants API. "
            "Please try again by setting the header 'OpenAI-Beta: assistants=v2'."
        )
        raise ApiError(400, message, code="invalid_beta")


def masked(key: str) -> str:
    """Return a key with part of it replaced by asterisks, as the provider shows it."""
    if len(key) <= 12:
        return key[:3] + "*" * max(0, len(key) - 3)
    return key[:8] + "*" * (len(key) - 12) + key[-4:]
