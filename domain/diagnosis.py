"""The diagnosis table: facts to cause, cause to advice. The first row that matches names the cause.

Where the wordings come from: OpenAI's documentation and reports of real failures, as gathered in November 2026; a wording
is only asked when code, type and HTTP status do not already tell.
"""

import re
from collections.abc import Callable

from .failures import Cause, Failure

Rule = tuple[Cause, Callable[[Failure], bool]]


def diagnose(failure: Failure) -> Cause:
    """Which of our causes these facts are."""
    return next((cause for cause, matches in RULES if matches(failure)), Cause.UNKNOWN)


def advise(cause: Cause) -> str:
    """What to do about a cause: names the setting or the command."""
    return ADVICE[cause]


def may_succeed_when_retried(cause: Cause) -> bool:
    """Whether the same request to the same backend can have another end."""
    return cause in RETRYABLE


RETRYABLE = frozenset(
    {
        Cause.RATE_LIMITED,
        Cause.PROVIDER_ERROR,
        Cause.THREAD_MISSING,  # a new thread is made, and brought up to the journal first
        Cause.THREAD_BUSY,
        Cause.TIMED_OUT,
        Cause.NETWORK,
        Cause.EXPIRED,
        Cause.INTERRUPTED,
    }
)


def _code(*codes: str) -> Callable[[Failure], bool]:
    return lambda failure: failure.code in codes or failure.type in codes


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
    """A 404 where no single thing was asked for, or where its whole collection answers 404 too: the API is gone."""
    if failure.http_status not in {404, 410}:
        return False
    endpoint = str(failure.details.get("endpoint", ""))
    told = failure.message or ""
    if failure.code == "model_not_found" or failure.param == "model":
        return False
    if "{conversation_id}" in endpoint:  # there is no list of conversations to ask: one that is missing is named
        return bool(told) and "onversation" not in told and (failure.thread_id or endpoint) not in told
    return failure.details.get("collection_http_status") in {404, 410} or bool(endpoint and "{" not in endpoint)


_NO_ANSWER_AT_ALL = (
    "JSONDecodeError",
    "APIResponseValidationError",
    "AttributeError",
    "TypeError",
    "IndexError",
    "KeyError",
)
"""What comes up in the SDK, or in reading its objects, when an answer with HTTP 200 is not the provider's."""


RULES: tuple[Rule, ...] = (
    # What our own preflight and driver said, in our own codes.
    *((cause, _all(_status("refused"), _code(cause.value))) for cause in Cause),
    (Cause.INTERRUPTED, _status("interrupted")),
    (Cause.TIMED_OUT, _any(_status("timed_out"), _code("TimeoutError", "ReadTimeout", "Timeout"))),
    (Cause.TOOL_FAILED, _code("tool_failed")),
    # Who may ask.
    (Cause.QUOTA_EXHAUSTED, _any(_code("insufficient_quota", "billing_hard_limit_reached", "billing_not_active"))),
    (Cause.AUTHENTICATION, _any(_http(401), _code("invalid_api_key", "missing_credentials"))),
    (Cause.PERMISSION, _any(_http(403), _code("permission_denied", "unsupported_country_region_territory"))),
    # What is not there.
    (Cause.PROVIDER_GONE, _shut_down),
    (
        Cause.MODEL_UNAVAILABLE,
        _any(_code("model_not_found", "model_not_available"), _all(_http(404), _param("^model$"))),
    ),
    (Cause.ASSISTANT_MISSING, _all(_http(404, 400), _says(r"\bassistant\b.*\b(not found|asst_)|no assistant"))),
    (Cause.ASSISTANT_MISSING, _all(_http(400, 404), _any(_param("^assistant_id$"), _says("invalid 'assistant_id'")))),
    (Cause.THREAD_MISSING, _all(_http(404), _says(r"\b(thread|conversation)\b"))),
    (Cause.ASSISTANT_MISSING, _all(_http(404), _detail("endpoint", "GET /assistants/{assistant_id}"))),
    (Cause.THREAD_MISSING, _all(_http(404), lambda f: bool(f.thread_id))),
    # What the thread is doing.
    (Cause.THREAD_BUSY, _code("conversation_locked")),
    (
        Cause.THREAD_BUSY,
        _says(r"already has an active run|while a run .* is active|another process is currently operating"),
    ),
    # How fast and how much.
    (Cause.CONTEXT_TOO_LONG, _any(_code("context_length_exceeded"), _says(r"maximum context length|context window"))),
    (Cause.RATE_LIMITED, _any(_http(429), _code("rate_limit_exceeded", "tokens", "requests"))),
    (Cause.CONTEXT_TOO_LONG, _detail("incomplete_reason", "max_prompt_tokens")),
    (
        Cause.CONTENT_FILTERED,
        _any(
            _code(
                "content_filter",
                "content_policy_violation",
                "image_content_policy_violation",
                "bio_policy",
                "misalignment_policy_violation",
            ),
            _detail("incomplete_reason", "content_filter"),
            _detail("finish_reason", "content_filter"),
        ),
    ),
    # What the assistant is made of.
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
    # How it ended.
    (Cause.EXPIRED, _status("expired")),
    (Cause.CANCELLED, _status("cancelled", "cancelling")),
    (Cause.INCOMPLETE, _status("incomplete")),
    (Cause.TIMED_OUT, _any(_http(408, 504), _detail("exception", "APITimeoutError"), _code("vector_store_timeout"))),
    (Cause.NETWORK, _any(_detail("exception", "APIConnectionError"), _code("ConnectionError", "ConnectError"))),
    (Cause.PROVIDER_ERROR, _any(_code("server_error"), lambda f: (f.http_status or 0) >= 500)),
    (Cause.PROVIDER_ERROR, _says(r"^sorry, something went wrong")),
    (Cause.PROVIDER_ERROR, _detail("exception", *_NO_ANSWER_AT_ALL)),
    (Cause.ASSISTANT_MISCONFIGURED, _all(_http(400, 422), _detail("endpoint", "POST /assistants"))),
)


ADVICE: dict[Cause, str] = {
    Cause.ASSISTANT_MISSING: "The assistant does not exist: correct OPENAI_ASSISTANT_ID, or unset it to have one made from the profile.",
    Cause.ASSISTANT_MISCONFIGURED: "The provider refuses the assistant's settings: correct name, instructions, model and tools in THREADLEDGER_PROFILE.",
    Cause.INSTRUCTIONS_TOO_LONG: "Shorten the instructions in THREADLEDGER_PROFILE: assistants take 256,000 characters.",
    Cause.TOO_MANY_TOOLS: "Remove tools from THREADLEDGER_PROFILE: assistants take 128.",
    Cause.TOOL_NOT_SUPPORTED: "The backend does not take one of the profile's tools: change it in THREADLEDGER_PROFILE, or leave the backend out of THREADLEDGER_BACKENDS.",
    Cause.EMPTY_MEMORY: "There was nothing to answer: the memory shown was empty; see it with: threadledger show KEY --view memory.",
    Cause.RATE_LIMITED: "Too many requests or tokens a minute: wait, raise THREADLEDGER_RETRIES, or ask the provider for a higher limit.",
    Cause.QUOTA_EXHAUSTED: "The account has no credit left: add credit at the provider, then: threadledger replay rerun --failed --cause quota_exhausted.",
    Cause.CONTEXT_TOO_LONG: "The memory is longer than the model's window: set OPENAI_MODEL to a model with a larger one, or show less with THREADLEDGER_MEMORY_TOKENS.",
    Cause.CONTENT_FILTERED: "The provider's content filter stopped the answer: look at the question with: threadledger audit show RUN.",
    Cause.AUTHENTICATION: "The key is wrong or missing: set OPENAI_API_KEY (and OPENAI_BASE_URL, if the key belongs elsewhere).",
    Cause.PERMISSION: "The key may not do this: check the project's rights, OPENAI_ORG_ID and OPENAI_PROJECT_ID.",
    Cause.MODEL_UNAVAILABLE: "The model does not exist, is retired, or is not open to this key: set OPENAI_MODEL (or THREADLEDGER_FALLBACK_MODEL).",
    Cause.PROVIDER_ERROR: "The provider failed on its side: nothing to change; try again with: threadledger replay rerun RUN --apply.",
    Cause.PROVIDER_GONE: "The provider shut this API down (or OPENAI_BASE_URL is not its address): set USE_ASSISTANTS_API=false, then move memory with: threadledger replay rebuild --all --to conversations.",
    Cause.THREAD_MISSING: "The provider lost the thread: write it anew with: threadledger replay rebuild KEY --apply.",
    Cause.THREAD_BUSY: "Another run held the thread: try again with: threadledger replay rerun RUN --apply.",
    Cause.TIMED_OUT: "No answer in time: raise THREADLEDGER_TIMEOUT_SECONDS, or try again with: threadledger replay rerun RUN --apply.",
    Cause.NETWORK: "The provider was not reached: check the connection and OPENAI_BASE_URL.",
    Cause.EXPIRED: "The provider gave the run up as too old: try again with: threadledger replay rerun RUN --apply.",
    Cause.CANCELLED: "Somebody cancelled the run: try again with: threadledger replay rerun RUN --apply.",
    Cause.INCOMPLETE: "The answer was cut off by a limit on tokens: raise the limit, or set OPENAI_MODEL to another model.",
    Cause.TOOL_FAILED: "A tool could not be run: bind it with threadledger.open(tools={name: function}), or take it out of THREADLEDGER_PROFILE.",
    Cause.INTERRUPTED: "The process stopped in the middle of the run: ask again, or: threadledger replay rerun RUN --apply.",
    Cause.UNKNOWN: "Not a failure we know: look at its details with: threadledger audit show RUN -o json.",
}
