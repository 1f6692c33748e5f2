"""Define the provider's refusals, in the provider's error envelope and, if it is known, the provider's wording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

INVALID_REQUEST = "invalid_request_error"
LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."


class ApiError(Exception):
    """Raised when the provider refuses a request.

    `status` is the HTTP status. The other attributes form OpenAI's error object: {"error": {message, type, param,
    code}}.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the error envelope as a JSON-compatible object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return a 400 with the given message."""
    return ApiError(400, message, param=param, code=code)


def missing(param: str) -> ApiError:
    """Return a 400 for a required field that is missing."""
    return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(param: str, expected: str, value: object) -> ApiError:
    """Return a 400 for a field with another JSON type than `expected` (words like "a string")."""
    message = f"Invalid type for '{param}': expected {expected}, but got {json_kind(value)} instead."
    return bad_request(message, param, "invalid_type")


def wrong_value(param: str, value: object, supported: Iterable[str]) -> ApiError:
    """Return a 400 for a field with a value outside its enumeration."""
    names = [f"'{name}'" for name in supported]
    listed = " and ".join(names) if len(names) <= 2 else ", ".join(names[:-1]) + f", and {names[-1]}"
    return bad_request(f"Invalid value: '{value}'. Supported values are: {listed}.", param, "invalid_value")


def empty_array(param: str) -> ApiError:
    """Return a 400 for an empty array that must have at least one element."""
    expected = "Expected an array with minimum length 1, but got an empty array instead."
    return bad_request(f"Invalid '{param}': empty array. {expected}", param, "empty_array")


def no_such(kind: str, identifier: str) -> ApiError:
    """Return a 404 of the Assistants API: "No thread found with id 'thread_x'."."""
    return ApiError(404, f"No {kind} found with id '{identifier}'.")


def not_found(kind: str, identifier: str) -> ApiError:
    """Return a 404 of the newer APIs: "Conversation with id 'conv_x' not found."."""
    return ApiError(404, f"{kind} with id '{identifier}' not found.")


def no_such_file(file_id: str, param: str | None = "id") -> ApiError:
    """Return a 404 for a file that was deleted, has expired or never existed; `param` is the field that names it."""
    return ApiError(404, f"No such File object: {file_id}", param=param)


def unknown_model(model: str) -> ApiError:
    """Return a 404 for a model that is retired or never existed."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def unknown_url(method: str, path: str) -> ApiError:
    """Return a 404 for a URL that the provider does not serve."""
    return ApiError(404, f"Invalid URL ({method} {path})")


def gone(api: str) -> ApiError:
    """Return the refusal of an API that was shut down: a 404 of the Assistants API and of files, else a 410.

    The provider's real body is not known, so this one names no id and has no code. Providers without files answer 404.
    """
    return ApiError(404 if api in ("assistants", "files") else 410, "Not found")


def json_kind(value: object) -> str:
    """Return the name of a value's JSON type with its article, as in the provider's messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    kinds = ((int, "an integer"), (float, "a decimal"), (str, "a string"), (list, "an array"), (dict, "an object"))
    return next(name for kind, name in kinds if isinstance(value, kind))
