"""Map the facts of a failure to a cause with an ordered table of rules; `advice.py` says what to do about each cause.

The first matching rule wins. The wordings come from OpenAI's documentation and from reports of real failures, collected
in November 2026. A rule checks the wording only if code, type and HTTP status are not conclusive.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .failure import Cause, Failure

Rule = tuple[Cause, Callable[[Failure], bool]]

DIAGNOSIS_VERSION = 1
"""Version of this table. Increment it with every change, to rebuild the views that store causes. A test checks this."""


def diagnose(failure: Failure) -> Cause:
    """Return the cause of a failure; `Cause.UNKNOWN` if no rule matches."""
    return next((cause for cause, matches in RULES if matches(failure)), Cause.UNKNOWN)


def may_succeed_when_retried(cause: Cause) -> bool:
    """Return whether the same request to the same backend may succeed on a retry."""
    return cause in RETRYABLE


RETRYABLE = frozenset(
    {
        Cause.RATE_LIMITED,
        Cause.PROVIDER_ERROR,
        Cause.THREAD_MISSING,  # the retry creates a new thread and fills it from the journal first
        Cause.THREAD_BUSY,
        Cause.TIMED_OUT,
        Cause.NETWORK,
        Cause.EXPIRED,
        Cause.INTERRUPTED,
    }
)

BACKEND_UNWELL = frozenset(
    {
        Cause.PROVIDER_ERROR,
        Cause.PROVIDER_GONE,
        Cause.TIMED_OUT,
        Cause.NETWORK,
        Cause.RATE_LIMITED,
        Cause.QUOTA_EXHAUSTED,
        Cause.AUTHENTICATION,
        Cause.PERMISSION,
        Cause.EXPIRED,
        Cause.MODEL_UNAVAILABLE,
    }
)
"""Causes that lie with the backend, not with the question: the next question is likely to fail for them too."""


def _code(*codes: str) -> Callable[[Failure], bool]:
    return lambda failure: failure.code in codes or failure.type in codes


def _raised(*exceptions: str) -> Callable[[Failure], bool]:
    """Match an exception by class name, raised in one of our calls (`details`) or in an app's own run (`type`)."""
    return lambda failure: failure.type in exceptions or failure.details.get("exception") in exceptions


def _status(*statuses: str) -> Callable[[Failure], bool]:
    return lambda failure: failure.status in statuses


def _http(*statuses: int) -> Callable[[Failure], bool]:
    return lambda failure: failure.http_status in statuses


def _says(pattern: str) -> Callable[[Failure], bool]:
    wording = re.compile(pattern, re.IGNORECASE)
    return lambda failure: bool(failure.message and wording.search(failure.message))


def _param(pattern: str) -> Callable[[Failure], bool]:
    name = re.compile(pattern)
    return lambda failure: bool(failure.param and name.search(failure.param))


def _all(*matches: Callable[[Failure], bool]) -> Callable[[Failure], bool]:
    return lambda failure: all(match(failure) for match in matches)


def _any(*matches: Callable[[Failure], bool]) -> Callable[[Failure], bool]:
    return lambda failure: any(match(failure) for match in matches)


def _detail(name: str, *values: object) -> Callable[[Failure], bool]:
    return lambda failure: failure.details.get(name) in values


def _shut_down(failure: Failure) -> bool:
    """Return whether the API is gone: a 404 or 410 for an endpoint without an id, or for the collection too."""
    if failure.http_status not in {404, 410}:
        return False
    endpoint = str(failure.details.get("endpoint", ""))
    told = failure.message or ""
    if failure.code in _NO_SUCH_MODEL or failure.param == "model":
        return False
    if "{conversation_id}" in endpoint:  # no list to check: the message names a missing one
        return bool(told) and "onversation" not in told and (failure.thread_id or endpoint) not in told
    return failure.details.get("collection_http_status") in {404, 410} or bool(endpoint and "{" not in endpoint)


_NO_SUCH_MODEL = (
    "model_not_found",
    "model_not_available",
    "DeploymentNotFound",  # Azure addresses a model by the name of its deployment
    "OperationNotSupported",  # Azure: the deployment's model does not support this API
)

_NO_ANSWER_AT_ALL = (
    "JSONDecodeError",
    "APIResponseValidationError",
    "AttributeError",
    "TypeError",
    "IndexError",
    "KeyError",
    "DecodingError",
    "StreamAlreadyConsumed",
)
"""Exceptions raised in the SDK, or while reading its objects, when a response with HTTP 200 is not the provider's. They
count only in our own calls: in an app's own run, a `TypeError` is the app's."""

_NO_CREDENTIALS = (
    "OpenAIError",
    "OAuthError",
    "AuthenticationError",
    "SubjectTokenProviderError",
    "MutuallyExclusiveAuthError",
    "_AmbiguousModuleClientUsageError",
)
"""Exceptions that the SDK raises if credentials are missing, cannot be fetched, or are of more than one kind."""

_TIMEOUTS = (
    "APITimeoutError",
    "TimeoutError",
    "Timeout",
    "ConnectTimeout",
    "ReadTimeout",
    "WriteTimeout",
    "PoolTimeout",
)

_NOT_REACHED = (
    "APIConnectionError",
    "ConnectionError",
    "ConnectionAbortedError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "BrokenPipeError",
    "SSLError",
    "gaierror",
    "URLError",
    "ConnectError",
    "ReadError",
    "WriteError",
    "CloseError",
    "ProxyError",
    "RemoteProtocolError",
    "UnsupportedProtocol",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
)
"""Exceptions for connections that were refused, cut or never established, as Python, HTTPX and the SDK name them."""

_NOT_TAKEN = (
    "content_filter",
    "content_policy_violation",
    "bio_policy",
    "misalignment_policy_violation",
    "image_content_policy_violation",
    # An image that the provider cannot read counts as content, like one that it rejects: the question has to change,
    # and a retry fails again.
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "invalid_image_mode",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
    "failed_to_download_image",
    "image_file_not_found",
)
"""Error codes that concern the content of a question, not the form of the request."""

_CUT_SHORT = ("max_output_tokens", "max_completion_tokens", "max_tokens", "max_messages", "steered", "length")
"""Reasons for an incomplete answer: a limit was reached, or the model was steered elsewhere while answering."""

_MEMORY = re.compile(r"(input|messages|content|role)\b")
"""Request parameters that carry memory."""


RULES: tuple[Rule, ...] = (
    # Our own preflight and driver report the cause as the code.
    *((cause, _all(_status("refused"), _code(cause.value))) for cause in Cause),
    (Cause.INTERRUPTED, _status("interrupted")),
    (Cause.TIMED_OUT, _any(_status("timed_out"), _raised(*_TIMEOUTS))),
    (Cause.TOOL_FAILED, _code("tool_failed")),
    # Quota, credentials and permissions.
    (Cause.QUOTA_EXHAUSTED, _any(_code("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"))),
    (
        Cause.AUTHENTICATION,
        _any(_http(401), _code("invalid_api_key", "missing_credentials"), _raised(*_NO_CREDENTIALS)),
    ),
    (
        Cause.PERMISSION,
        _any(
            _http(403),
            _code("permission_denied", "unsupported_country_region_territory"),
            _code("data_residency_mismatch"),  # the project's data must not be sent to this region
            _raised("PermissionDeniedError"),
        ),
    ),
    # Missing models, APIs, assistants and threads.
    # Compatible servers (vLLM, Ollama) report a missing model only by this wording.
    (Cause.MODEL_UNAVAILABLE, _all(_http(404), _says(r"\bmodel\b.{0,200}\b(not found|does not exist)"))),
    (Cause.PROVIDER_GONE, _shut_down),
    (
        Cause.MODEL_UNAVAILABLE,
        _any(_code(*_NO_SUCH_MODEL), _all(_http(404), _param("^model$"))),
    ),
    (Cause.ASSISTANT_MISSING, _all(_http(404, 400), _says(r"\bassistant\b.*\b(not found|asst_)|no assistant"))),
    (Cause.ASSISTANT_MISSING, _all(_http(400, 404), _any(_param("^assistant_id$"), _says("invalid 'assistant_id'")))),
    (Cause.THREAD_MISSING, _all(_http(404), _says(r"\b(thread|conversation)\b"))),
    (Cause.ASSISTANT_MISSING, _all(_http(404), _detail("endpoint", "GET /assistants/{assistant_id}"))),
    (Cause.THREAD_MISSING, _all(_http(404), lambda f: bool(f.thread_id))),
    # Threads that are in use.
    (Cause.THREAD_BUSY, _any(_code("conversation_locked"), _http(409), _raised("ConflictError"))),
    (
        Cause.THREAD_BUSY,
        _says(r"already has an active run|while a run .* is active|another process is currently operating"),
    ),
    # Rate and size limits, and content filters.
    (
        Cause.CONTEXT_TOO_LONG,
        _any(_http(413), _code("context_length_exceeded"), _says(r"maximum context length|context window")),
    ),
    (
        Cause.RATE_LIMITED,
        _any(_http(429), _code("rate_limit_exceeded", "tokens", "requests"), _raised("RateLimitError")),
    ),
    (Cause.CONTEXT_TOO_LONG, _detail("incomplete_reason", "max_prompt_tokens")),
    (
        Cause.CONTENT_FILTERED,
        _any(
            _code(*_NOT_TAKEN),
            _detail("incomplete_reason", "content_filter"),
            _detail("finish_reason", "content_filter"),
            _raised("ContentFilterFinishReasonError"),
        ),
    ),
    (Cause.TOOL_FAILED, _says(r"^no tool output found for function call")),  # a tool call without a result
    # The profile: instructions, tools and other fields.
    (Cause.INSTRUCTIONS_TOO_LONG, _any(_param("instructions"), _says(r"instructions.*(too long|maximum length)"))),
    (Cause.TOO_MANY_TOOLS, _all(_param("^tools$"), _says(r"too long|at most|maximum"))),
    (
        Cause.TOOL_NOT_SUPPORTED,
        _any(_param(r"^tools\["), _says(r"tools?\b.*\b(not supported|unsupported|unknown type)")),
    ),
    (Cause.EMPTY_MEMORY, _all(_code("server_error"), _detail("prompt_tokens", 0))),
    (
        Cause.ASSISTANT_MISCONFIGURED,
        _any(_code("invalid_prompt"), _param(r"^(name|description|model|metadata|tool_choice)")),
    ),
    # How the run ended.
    (Cause.EXPIRED, _any(_status("expired"), _detail("incomplete_reason", "run_expired"))),
    (Cause.CANCELLED, _any(_status("cancelled", "cancelling"), _detail("incomplete_reason", "run_cancelled"))),
    (Cause.PROVIDER_ERROR, _detail("incomplete_reason", "run_failed")),
    (
        Cause.INCOMPLETE,
        _any(
            _status("incomplete"),
            _detail("incomplete_reason", *_CUT_SHORT),
            _detail("finish_reason", *_CUT_SHORT),
            _raised("LengthFinishReasonError"),
        ),
    ),
    (Cause.TIMED_OUT, _any(_http(408, 504), _code("vector_store_timeout"))),
    (Cause.NETWORK, _any(_raised(*_NOT_REACHED), _code("stream_broken"))),
    (Cause.PROVIDER_ERROR, _any(_code("server_error"), lambda f: (f.http_status or 0) >= 500)),
    (Cause.PROVIDER_ERROR, _says(r"^sorry, something went wrong")),
    (Cause.PROVIDER_ERROR, _any(_raised("InternalServerError"), _detail("exception", *_NO_ANSWER_AT_ALL))),
    (Cause.ASSISTANT_MISCONFIGURED, _all(_http(400, 422), _detail("endpoint", "POST /assistants"))),
    # A request consists of a profile and memory. If the provider rejects it and blames neither the memory nor anything
    # matched above, the profile is the cause.
    (
        Cause.ASSISTANT_MISCONFIGURED,
        _all(
            _any(_http(422), _all(_http(400), _code("invalid_request_error"))),
            lambda failure: not _MEMORY.match(failure.param or ""),
        ),
    ),
    # A stream that ended with an error that no rule above matches.
    (Cause.PROVIDER_ERROR, _any(_detail("event", "error"), _raised("APIError"))),
)
