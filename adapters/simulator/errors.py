"""What the provider refuses, in its own envelope and, where it is known, in its own words.

ApiError                a refusal: HTTP status and {"error": {message, type, param, code}}
"""

from collections.abc import Iterable, Mapping
from typing import Any

INVALID_REQUEST = "invalid_request_error"
LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."


class ApiError(Exception):
    """A refusal that travels up to the wire: `status` is the HTTP status, the rest is OpenAI's error object."""

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
        """The envelope, ready for JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 with the given words."""
    return ApiError(400, message, param=param, code=code)


def missing(param: str) -> ApiError:
    """A required field is not there."""
    return bad_request(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(param: str, expected: str, value: object) -> ApiError:
    """A field has another JSON type than `expected` (words like "a string")."""
    message = f"Invalid type for '{param}': expected {expected}, but got {json_kind(value)} instead."
    return bad_request(message, param, "invalid_type")


def wrong_value(param: str, value: object, supported: Iterable[str]) -> ApiError:
    """A field has a value outside its enumeration."""
    names = [f"'{name}'" for name in supported]
    listed = " and ".join(names) if len(names) <= 2 else ", ".join(names[:-1]) + f", and {names[-1]}"
    return bad_request(f"Invalid value: '{value}'. Supported values are: {listed}.", param, "invalid_value")


def empty_array(param: str) -> ApiError:
    """An array must have at least one element."""
    expected = "Expected an array with minimum length 1, but got an empty array instead."
    return bad_request(f"Invalid '{param}': empty array. {expected}", param, "empty_array")


def no_such(kind: str, identifier: str) -> ApiError:
    """404 of the Assistants surface: "No thread found with id 'thread_x'."."""
    return ApiError(404, f"No {kind} found with id '{identifier}'.")


def not_found(kind: str, identifier: str) -> ApiError:
    """404 of the newer surfaces: "Conversation with id 'conv_x' not found."."""
    return ApiError(404, f"{kind} with id '{identifier}' not found.")


def unknown_model(model: str) -> ApiError:
    """The model is retired or was never there."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def unknown_url(method: str, path: str) -> ApiError:
    """No such address."""
    return ApiError(404, f"Invalid URL ({method} {path})")


def gone() -> ApiError:
    """An API that was shut down. The true body is not known, so this one names no id and gives no code."""
    return ApiError(404, "Not found")


def json_kind(value: object) -> str:
    """The name of a value's JSON type with its article, as the provider's messages say it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    kinds = ((int, "an integer"), (float, "a decimal"), (str, "a string"), (list, "an array"), (dict, "an object"))
    return next(name for kind, name in kinds if isinstance(value, kind))
