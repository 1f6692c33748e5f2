"""The facts of an exception of any SDK are read from its attributes; the table has each SDK's own shape.

openai and anthropic are the real SDKs. The classes of the others have the attributes of the real ones: litellm 1.80
(`litellm/exceptions.py`: subclasses of openai's errors with `body=None`), requests 2.32 (`requests/exceptions.py`),
botocore 1.41 (`botocore/exceptions.py`, `ClientError`), google-genai 1.52 (`google/genai/errors.py`, `APIError`), and
aiohttp 3.13 (`aiohttp/client_exceptions.py`, `ClientResponseError`).
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from threadledger.domain.failures import Cause, Failure, diagnose
from threadledger.domain.limits import BODY_CHARS_MAX, DETAILS_BYTES_MAX

REQUEST = httpx2.Request("POST", "https://api.example/v1/chat/completions")
SECRET = "sk-abcdefghijklmnopqrstuvwx"


def response(status: int, body: Any, **headers: str) -> httpx2.Response:
    given_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(status, json=body, headers=given_headers, request=REQUEST)


def of_openai(status: int, error: Any, **headers: str) -> Exception:
    return openai.OpenAI(api_key="k")._make_status_error_from_response(response(status, {"error": error}, **headers))


def of_anthropic(status: int, kind: str, words: str, **headers: str) -> Exception:
    body = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_a"}
    return anthropic.Anthropic(api_key="k")._make_status_error_from_response(response(status, body, **headers))


class LiteLLMRateLimitError(openai.RateLimitError):
    """litellm.RateLimitError: the provider's response is that of the call, and the body is None."""

    def __init__(self) -> None:
        self.status_code = 429
        self.message = "litellm.RateLimitError: RateLimitError: MistralException - Slow down."
        self.llm_provider, self.model = "mistral", "mistral-large"
        answered = response(429, {"message": "Slow down."}, retry_after="12", x_request_id="req_l")
        super().__init__(self.message, response=answered, body=None)


class LiteLLMContextWindowError(openai.BadRequestError):
    """litellm.ContextWindowExceededError."""

    def __init__(self) -> None:
        self.status_code = 400
        self.message = "litellm.ContextWindowExceededError: This model's maximum context length is 8192 tokens."
        super().__init__(self.message, response=httpx2.Response(400, request=REQUEST), body=None)


class RequestsHTTPError(OSError):
    """requests.HTTPError: an OSError with `request` and `response`."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.request = SimpleNamespace(method="POST")
        self.response = SimpleNamespace(status_code=status, text=body.decode(), content=body, headers=headers)
        super().__init__(f"{status} Client Error for url: https://api.example/v1")


class BotoClientError(Exception):
    """botocore.exceptions.ClientError: `response` is a dict."""

    def __init__(self) -> None:
        self.response = {
            "Error": {"Code": "ThrottlingException", "Message": "Too many requests."},
            "ResponseMetadata": {
                "RequestId": "aws-1",
                "HTTPStatusCode": 429,
                "HTTPHeaders": {"retry-after": "3"},
            },
        }
        super().__init__("An error occurred (ThrottlingException) when calling the Converse operation")


class GenaiClientError(Exception):
    """google.genai.errors.ClientError: `code` is the HTTP status, `status` a name, `details` the body."""

    def __init__(self) -> None:
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "13s"}
        error = {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED", "details": [retry]}
        self.code, self.status, self.message = 429, "RESOURCE_EXHAUSTED", "Quota exceeded."
        self.details = {"error": error}
        super().__init__("429 RESOURCE_EXHAUSTED. Quota exceeded.")


class AiohttpResponseError(Exception):
    """aiohttp.ClientResponseError: `status`, `message` and `headers`, no body."""

    def __init__(self) -> None:
        self.status, self.message = 503, "Service Unavailable"
        self.headers = [(b"Retry-After", b"Sun, 22 Nov 2026 12:00:30 GMT"), ("x-request-id", "req_h")]
        super().__init__("503, message='Service Unavailable'")


FIELDS = ("code", "type", "message", "http_status", "request_id", "retry_after_seconds", "param")

TABLE: dict[str, tuple[BaseException, tuple[Any, ...], Cause]] = {
    "openai RateLimitError": (
        of_openai(
            429,
            {"message": "Slow down.", "code": "rate_limit_exceeded", "type": "requests", "param": None},
            retry_after="7",
            x_request_id="req_o",
        ),
        ("rate_limit_exceeded", "requests", "Slow down.", 429, "req_o", 7.0, None),
        Cause.RATE_LIMITED,
    ),
    "openai BadRequestError": (
        of_openai(400, {"message": "Too long.", "code": "context_length_exceeded", "type": "e", "param": "messages"}),
        ("context_length_exceeded", "e", "Too long.", 400, None, None, "messages"),
        Cause.CONTEXT_TOO_LONG,
    ),
    "openai APITimeoutError": (
        openai.APITimeoutError(request=REQUEST),
        (None, "APITimeoutError", "Request timed out.", None, None, None, None),
        Cause.TIMED_OUT,
    ),
    "anthropic OverloadedError": (
        of_anthropic(529, "overloaded_error", "Overloaded", request_id="req_a", retry_after_ms="1500"),
        (None, "overloaded_error", "Overloaded", 529, "req_a", 1.5, None),
        Cause.PROVIDER_ERROR,
    ),
    "anthropic AuthenticationError": (
        of_anthropic(401, "authentication_error", "invalid x-api-key"),
        (None, "authentication_error", "invalid x-api-key", 401, "req_a", None, None),
        Cause.AUTHENTICATION,
    ),
    "anthropic APIConnectionError": (
        anthropic.APIConnectionError(request=REQUEST),
        (None, "APIConnectionError", "Connection error.", None, None, None, None),
        Cause.NETWORK,
    ),
    "litellm RateLimitError": (
        LiteLLMRateLimitError(),
        (None, "LiteLLMRateLimitError", "Slow down.", 429, "req_l", 12.0, None),
        Cause.RATE_LIMITED,
    ),
    "litellm ContextWindowExceededError": (
        LiteLLMContextWindowError(),
        (
            *(None, "LiteLLMContextWindowError"),
            "litellm.ContextWindowExceededError: This model's maximum context length is 8192 tokens.",
            *(400, None, None, None),
        ),
        Cause.CONTEXT_TOO_LONG,
    ),
    "requests HTTPError": (
        RequestsHTTPError(402, b'{"error": "out of credits"}', {"X-Request-Id": "req_r", "Retry-After": "60"}),
        (None, "RequestsHTTPError", "out of credits", 402, "req_r", 60.0, None),
        Cause.UNKNOWN,
    ),
    "botocore ClientError": (
        BotoClientError(),
        ("ThrottlingException", "BotoClientError", "Too many requests.", 429, "aws-1", 3.0, None),
        Cause.RATE_LIMITED,
    ),
    "google-genai ClientError": (
        GenaiClientError(),
        ("RESOURCE_EXHAUSTED", "GenaiClientError", "Quota exceeded.", 429, None, 13.0, None),
        Cause.RATE_LIMITED,
    ),
    "aiohttp ClientResponseError": (
        AiohttpResponseError(),
        (None, "AiohttpResponseError", "503, message='Service Unavailable'", 503, "req_h", 30.0, None),
        Cause.PROVIDER_ERROR,
    ),
}


@freeze_time("2026-11-22T12:00:00Z")
@pytest.mark.parametrize("name", TABLE)
def test_every_field_of_an_sdks_exception_is_read(name: str) -> None:
    error, expected, cause = TABLE[name]
    failure = Failure.of_exception(error).redacted()
    assert tuple(getattr(failure, field) for field in FIELDS) == expected
    if cause is not Cause.UNKNOWN:  # a cause that the table of causes may learn
        assert diagnose(failure) is cause
    if failure.http_status is not None:
        assert failure.details["exception"] == type(error).__name__


@freeze_time("2026-11-22T12:00:00Z")
@pytest.mark.parametrize("name", TABLE)
def test_an_exception_that_an_app_raises_from_it_has_the_same_facts(name: str) -> None:
    error, expected, cause = TABLE[name]
    wrapper = RuntimeError("the model did not answer")
    wrapper.__cause__ = error
    failure = Failure.of_exception(wrapper).redacted()
    if failure.http_status is not None:
        assert failure.message == f"the model did not answer: {expected[2]}"
        assert (failure.code, *tuple(getattr(failure, field) for field in FIELDS[3:])) == (expected[0], *expected[3:])
    assert failure.details["exception"] == type(error).__name__
    if cause is not Cause.UNKNOWN:
        assert diagnose(failure) is cause


@pytest.mark.parametrize("shape", ["a group", "a group in a group", "a context", "a group from a cause"])
def test_the_provider_is_found_wherever_an_exception_holds_it(shape: str) -> None:
    limited = of_openai(429, {"message": "slow down", "code": "rate_limit_exceeded"}, retry_after="7")
    later = of_openai(500, {"message": "broken"})
    outer: BaseException = ExceptionGroup("tasks", [ValueError("no"), limited, later])
    if shape == "a group in a group":
        outer = BaseExceptionGroup("outer", [KeyboardInterrupt(), outer, later])
    elif shape == "a context":
        outer = KeyError("choices")
        outer.__context__ = limited
    elif shape == "a group from a cause":
        outer = RuntimeError("the model did not answer")
        outer.__cause__ = ExceptionGroup("tasks", [limited])
        outer.__context__ = later
    failure = Failure.of_exception(outer)
    assert (failure.http_status, failure.code, failure.retry_after_seconds) == (429, "rate_limit_exceeded", 7)


def test_a_context_that_the_app_has_suppressed_is_not_read() -> None:
    outer = KeyError("choices")
    outer.__context__ = of_openai(429, {"message": "slow down"})
    outer.__suppress_context__ = True
    assert Failure.of_exception(outer).http_status is None


@pytest.mark.parametrize(("given", "seconds"), [("7", 7), (" 1m2s", 62), ("0", 0), ("soon", None), ("-1", None)])
def test_a_time_to_wait_that_is_text_is_read(given: str, seconds: float | None) -> None:
    error = type("SlowError", (Exception,), {"retry_after": given, "status_code": 429})("slow down")
    assert Failure.of_exception(error).retry_after_seconds == seconds


def test_an_exception_without_facts_has_its_class_and_words() -> None:
    assert Failure.of_exception(ValueError("no")) == Failure("error", type="ValueError", message="no")


def test_the_body_is_kept_without_secrets_and_within_the_limits() -> None:
    error = of_openai(400, {"message": f"key {SECRET}", "api_key": SECRET, "more": '\N{GRINNING FACE}"' * 5_000})
    failure = Failure.of_exception(error).redacted()
    assert SECRET not in json.dumps(vars(failure), default=str)
    assert 500 < len(failure.details["body"]) <= BODY_CHARS_MAX
    assert len(json.dumps(dict(failure.details), ensure_ascii=False).encode()) <= DETAILS_BYTES_MAX
    assert failure.details["exception"] == "BadRequestError"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": [{"loc": ["body"], "msg": "field required", "type": "missing"}]}', "field required"),
        ([{"error": {"code": 404, "message": "no such model"}}], "no such model"),
        ({"errors": [{"message": "first"}, {"message": "second"}]}, "first"),
        ({"message": "flat", "code": "x"}, "flat"),
        ({"error": "a string"}, "a string"),
        (b"\xff<html>Bad gateway</html>", "refused"),
        (17, "refused"),
    ],
)
def test_the_words_of_the_provider_are_found_in_any_body(body: Any, message: str) -> None:
    error = type("SomeError", (Exception,), {"body": body, "status_code": 400})("refused")
    assert Failure.of_exception(error).message == message


class Hostile(Exception):
    """Every attribute raises, and so does its text."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_exception_whose_attributes_raise_is_still_a_failure() -> None:
    assert Failure.of_exception(Hostile()) == Failure("error", type="Hostile")


def test_a_body_that_requests_has_not_read_is_not_waited_for() -> None:
    class Unread:
        status_code, headers, _content = 500, None, False

        @property
        def text(self) -> str:
            raise AssertionError("reading would wait for the network")

    error = type("HTTPError", (Exception,), {"response": Unread()})("refused")
    assert Failure.of_exception(error).http_status == 500


@pytest.mark.parametrize("name", ["code", "status_code", "retry_after", "body", "type"])
def test_a_number_that_python_does_not_print_is_missing(name: str) -> None:
    huge = 10**5_000
    error = type("HugeError", (Exception,), {name: {"code": huge} if name == "body" else huge})("words")
    failure = Failure.of_exception(error).redacted()
    assert (failure.code, failure.http_status, failure.retry_after_seconds) == (None, None, None)
    assert (failure.type, failure.message) == ("HugeError", "words")


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.sampled_from([float("nan"), float("inf"), "429", b"\xff", "\ud800", object(), len])
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("status_code", "status", "code", "type", "param", "request_id", "body", "headers", "retry_after", "details")


@given(
    st.dictionaries(st.sampled_from(NAMES), ANYTHING),
    st.dictionaries(st.sampled_from(("headers", "status_code", "text", "status")), ANYTHING),
)
def test_whatever_an_exception_holds_its_failure_can_be_stored(own: dict[str, Any], answered: dict[str, Any]) -> None:
    error = type("AnyError", (Exception,), own | {"response": SimpleNamespace(**answered)})("words")
    failure = Failure.of_exception(error).redacted()
    assert json.dumps(vars(failure), allow_nan=False, ensure_ascii=False).encode()
    assert isinstance(failure.http_status, int | None)
    assert isinstance(failure.message, str)
    diagnose(failure)
