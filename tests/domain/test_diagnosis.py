"""Facts to cause, cause to advice. The facts are as providers really give them (reference/openai.md)."""

import re

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from threadledger.domain.failures import (
    BACKEND_UNWELL,
    Cause,
    Failure,
    advise,
    diagnose,
    is_worth_a_retry,
    may_succeed_when_retried,
)
from threadledger.domain.failures.advice import ADVICE

RUN = {"endpoint": "GET /threads/{thread_id}/runs/{run_id}"}


def http(status, message=None, code=None, kind=None, param=None, endpoint=None, thread_id=None, **details):
    """A call that was answered with an error."""
    known = details | ({"endpoint": endpoint} if endpoint else {})
    return Failure("error", code, kind, message, status, param=param, thread_id=thread_id, details=known)


REQUEST = "invalid_request_error"

CASES = [
    # The seed: runs that ended without a word.
    (Cause.PROVIDER_ERROR, Failure("failed", "server_error", message="Sorry, something went wrong.", details=RUN)),
    (Cause.PROVIDER_ERROR, Failure("failed", message="Sorry, something went wrong.")),
    (Cause.PROVIDER_ERROR, http(500, "The server had an error while processing your request.", kind="server_error")),
    (Cause.PROVIDER_ERROR, http(503, "The engine is currently overloaded, please try again later.")),
    (Cause.PROVIDER_ERROR, http(529)),
    (Cause.PROVIDER_ERROR, Failure("error", type="JSONDecodeError", details={"exception": "JSONDecodeError"})),
    (Cause.PROVIDER_ERROR, Failure("error", type="AttributeError", details={"exception": "AttributeError"})),
    (Cause.EMPTY_MEMORY, Failure("failed", "server_error", details=RUN | {"prompt_tokens": 0})),
    (Cause.PROVIDER_ERROR, Failure("failed", "server_error", details=RUN | {"prompt_tokens": 12})),
    (Cause.PROVIDER_ERROR, Failure("failed", "server_error", details=RUN | {"prompt_tokens": None})),
    # What is not there.
    (Cause.PROVIDER_GONE, http(404, "Invalid URL (POST /v1/threads)", kind=REQUEST, endpoint="POST /threads")),
    (Cause.PROVIDER_GONE, http(404, endpoint="GET /assistants")),
    (Cause.PROVIDER_GONE, http(410, endpoint="POST /threads")),
    (
        Cause.PROVIDER_GONE,
        http(404, endpoint="POST /threads/{thread_id}/runs", thread_id="thread_x", collection_http_status=404),
    ),
    (
        Cause.THREAD_MISSING,
        http(404, "No thread found with id 'thread_abc'.", kind=REQUEST, endpoint="POST /threads/{thread_id}/messages"),
    ),
    (
        Cause.THREAD_MISSING,
        http(404, "Conversation with id 'conv_abc' not found.", endpoint="POST /responses {conversation_id}"),
    ),
    (Cause.THREAD_MISSING, http(404, endpoint="GET /threads/{thread_id}/messages", thread_id="thread_abc")),
    (Cause.THREAD_MISSING, http(404, endpoint="GET /conversations/{conversation_id}/items", thread_id="conv_abc")),
    (
        Cause.ASSISTANT_MISSING,
        http(
            404,
            "No assistant found with id 'asst_abc'.",
            kind=REQUEST,
            endpoint="POST /threads/{thread_id}/runs",
            thread_id="thread_abc",
        ),
    ),
    (Cause.ASSISTANT_MISSING, http(400, "No assistant found with id 'asst_abc'.", endpoint="POST /threads/{t}/runs")),
    (Cause.ASSISTANT_MISSING, http(404, endpoint="GET /assistants/{assistant_id}")),
    (
        Cause.MODEL_UNAVAILABLE,
        http(404, "The model `gpt-4` does not exist.", "model_not_found", REQUEST, endpoint="POST /chat/completions"),
    ),
    (Cause.MODEL_UNAVAILABLE, http(400, "The model has been deprecated.", "model_not_found")),
    (Cause.MODEL_UNAVAILABLE, http(404, "The model `x` does not exist.", "404", "NotFoundError", endpoint="POST /x")),
    (Cause.MODEL_UNAVAILABLE, http(404, 'model "x" not found, try pulling it first', endpoint="POST /x")),
    (Cause.MODEL_UNAVAILABLE, http(404, "No such model.", param="model", endpoint="POST /responses")),
    # Who may ask.
    (Cause.AUTHENTICATION, http(401, "Incorrect API key provided: [redacted].", "invalid_api_key", REQUEST)),
    (Cause.AUTHENTICATION, http(401)),
    (Cause.AUTHENTICATION, Failure("error", "missing_credentials")),
    (Cause.PERMISSION, http(403, "You are not allowed to do this.")),
    (Cause.PERMISSION, http(403, code="unsupported_country_region_territory")),
    # How fast and how much.
    (Cause.RATE_LIMITED, http(429, "Rate limit reached for gpt-6 on tokens per min.", "rate_limit_exceeded", "tokens")),
    (Cause.RATE_LIMITED, http(429)),
    (Cause.RATE_LIMITED, Failure("failed", "rate_limit_exceeded", details=RUN)),
    (
        Cause.QUOTA_EXHAUSTED,
        http(429, "You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
    ),
    (Cause.QUOTA_EXHAUSTED, http(429, kind="insufficient_quota")),
    (Cause.QUOTA_EXHAUSTED, http(400, code="billing_hard_limit_reached")),
    (
        Cause.CONTEXT_TOO_LONG,
        http(400, "maximum context length is 128000", "context_length_exceeded", param="messages"),
    ),
    (Cause.CONTEXT_TOO_LONG, http(400, "Your input exceeds the context window of this model.", param="input")),
    (Cause.CONTEXT_TOO_LONG, Failure("incomplete", details=RUN | {"incomplete_reason": "max_prompt_tokens"})),
    # What the thread is doing.
    (
        Cause.THREAD_BUSY,
        http(
            400, "Can't add messages to thread_abc while a run run_abc is active.", kind=REQUEST, thread_id="thread_abc"
        ),
    ),
    (Cause.THREAD_BUSY, http(400, "Thread thread_abc already has an active run run_abc.", kind=REQUEST)),
    (
        Cause.THREAD_BUSY,
        http(
            400,
            "Another process is currently operating on this conversation. Please retry in a few seconds.",
            "conversation_locked",
            REQUEST,
            "conversation",
        ),
    ),
    # What was said.
    (Cause.CONTENT_FILTERED, http(400, "The response was filtered.", "content_filter")),
    (Cause.CONTENT_FILTERED, Failure("incomplete", details={"incomplete_reason": "content_filter"})),
    (Cause.CONTENT_FILTERED, Failure("incomplete", details={"finish_reason": "content_filter"})),
    (Cause.CONTENT_FILTERED, Failure("failed", "bio_policy")),
    # What the assistant is made of.
    (
        Cause.INSTRUCTIONS_TOO_LONG,
        http(
            400,
            "Invalid 'instructions': string too long. Expected a string with maximum length 256000.",
            "string_above_max_length",
            REQUEST,
            "instructions",
            "POST /assistants",
        ),
    ),
    (Cause.INSTRUCTIONS_TOO_LONG, Failure("refused", "instructions_too_long", message="300,000 characters")),
    (
        Cause.TOO_MANY_TOOLS,
        http(
            400,
            "Invalid 'tools': array too long. Expected an array with maximum length 128, but got 130 instead.",
            "array_above_max_length",
            REQUEST,
            "tools",
            "POST /assistants",
        ),
    ),
    (
        Cause.TOOL_NOT_SUPPORTED,
        http(
            400,
            "Invalid value: 'web_search'. Supported values are: 'code_interpreter', 'function', and 'file_search'.",
            "invalid_value",
            REQUEST,
            "tools[0].type",
            "POST /assistants",
        ),
    ),
    (Cause.TOOL_NOT_SUPPORTED, http(400, "Hosted tool 'web_search' is not supported with this model.", param=None)),
    (Cause.TOOL_NOT_SUPPORTED, Failure("refused", "tool_not_supported")),
    (Cause.ASSISTANT_MISCONFIGURED, Failure("failed", "invalid_prompt", details=RUN)),
    (
        Cause.ASSISTANT_MISCONFIGURED,
        http(400, "Invalid 'name': string too long.", "string_above_max_length", REQUEST, "name", "POST /assistants"),
    ),
    (Cause.ASSISTANT_MISCONFIGURED, http(400, "Something is off.", kind=REQUEST, endpoint="POST /assistants")),
    (Cause.EMPTY_MEMORY, Failure("refused", "empty_memory", message="there is no message to answer")),
    (Cause.TOOL_FAILED, Failure("error", "tool_failed", message="no function is bound to 'web_search'")),
    # How it ended.
    (Cause.EXPIRED, Failure("expired", message="the run ended expired", details=RUN)),
    (Cause.CANCELLED, Failure("cancelled", details=RUN)),
    (Cause.CANCELLED, Failure("cancelling", details=RUN)),
    (Cause.INCOMPLETE, Failure("incomplete", details=RUN | {"incomplete_reason": "max_completion_tokens"})),
    (Cause.INCOMPLETE, Failure("incomplete", "empty_answer", message="the run completed without a message")),
    (Cause.TIMED_OUT, Failure("timed_out", message="no answer within 60 s")),
    (Cause.TIMED_OUT, Failure("error", message="Request timed out.", details={"exception": "APITimeoutError"})),
    (Cause.TIMED_OUT, http(504)),
    (Cause.TIMED_OUT, http(408)),
    (Cause.NETWORK, Failure("error", message="Connection error.", details={"exception": "APIConnectionError"})),
    (Cause.INTERRUPTED, Failure("interrupted", message="the process that ran it stopped before the run ended")),
    (Cause.UNKNOWN, Failure("failed")),
    (Cause.UNKNOWN, Failure("error", type="ZeroDivisionError", message="division by zero")),
    (Cause.UNKNOWN, http(418, "I'm a teapot")),
    # A request is made of a profile and of messages: the profile is blamed only if a field or parameter is named.
    (Cause.ASSISTANT_MISCONFIGURED, http(400, "Unknown parameter: 'tols'.", "unknown_parameter", REQUEST, "tols")),
    (Cause.ASSISTANT_MISCONFIGURED, http(400, "Invalid value.", "invalid_value", REQUEST, "tool_choice")),
    (Cause.ASSISTANT_MISCONFIGURED, http(400, "temperature: Extra inputs are not permitted", kind=REQUEST)),
    (Cause.HISTORY_REFUSED, http(400, "Invalid value: 'input_text'.", "invalid_value", REQUEST, "input[1].content[0]")),
    (Cause.HISTORY_REFUSED, http(400, "messages.2.content: Extra inputs are not permitted", kind=REQUEST)),
    (Cause.HISTORY_REFUSED, http(422, "Extra inputs are not permitted")),
    (Cause.HISTORY_REFUSED, http(400, "No tool output found for function call call_abc.", None, REQUEST, "input")),
    (Cause.HISTORY_REFUSED, http(400, "Invalid.", body='{"detail": [{"loc": ["body", "messages"]}]}')),
    (Cause.HISTORY_REFUSED, http(404, "Item with id 'rs_abc' not found.", None, REQUEST, "input", "POST /responses")),
    (Cause.THREAD_MISSING, http(400, "Previous response with id 'resp_a' not found.", "previous_response_not_found")),
    (Cause.CONTENT_NOT_SUPPORTED, Failure("refused", "content_not_supported")),
    (Cause.CONTENT_NOT_SUPPORTED, Failure("error", http_status=413, details={"endpoint": "POST /files"})),
    (Cause.FILE_MISSING, http(404, "No such File object: file-abc", kind=REQUEST, endpoint="POST /responses")),
    (Cause.FILE_MISSING, http(400, "Timeout while downloading https://files.example/a.png.", "invalid_value", REQUEST)),
    # An error in a response with HTTP 200: its numeric code counts as the status.
    (Cause.PROVIDER_ERROR, http(200, "Provider returned error", "502")),
    (Cause.RATE_LIMITED, http(200, "Slow down.", "429")),
    (Cause.QUOTA_EXHAUSTED, Failure("error", "402", message="Insufficient credits.")),
    (Cause.AUTHENTICATION, http(401, "No.", "500")),
    (Cause.CONTEXT_TOO_LONG, http(200, "prompt is too long: 210000 tokens > 200000 maximum", kind=REQUEST)),
    (Cause.RATE_LIMITED, http(200, "Resource has been exhausted.", "RESOURCE_EXHAUSTED")),
    (Cause.TIMED_OUT, http(200, "Deadline expired.", kind="DEADLINE_EXCEEDED")),
    # Something else than the API answered.
    (Cause.NETWORK, Failure("error", "redirect_refused", message="the server redirects to https://other.example")),
    (Cause.NETWORK, http(404, "Not Found", endpoint="POST /chat/completions")),
    (Cause.NETWORK, http(404, endpoint="POST /responses")),
    (Cause.NETWORK, http(404, "Not Found", endpoint="POST /responses {conversation_id}", thread_id="conv_abc")),
    (Cause.NETWORK, http(405, "Method Not Allowed", endpoint="POST /chat/completions")),
    (Cause.NETWORK, http(400, "<html>Bad Request</html>")),
    (Cause.PROVIDER_ERROR, http(200, content_type="text/html", body="<html>Please log in</html>")),
    (Cause.TIMED_OUT, http(524, content_type="text/html", body="<html>A timeout occurred</html>")),
    (Cause.PROVIDER_GONE, http(410, "Gone", endpoint="POST /responses")),
    # Named by code alone, by an exception's name alone, or by a stream.
    (Cause.PERMISSION, Failure("failed", "data_residency_mismatch")),
    (Cause.CONTENT_FILTERED, http(400, "Invalid image data.", "invalid_image", REQUEST, "input[0].content[1]")),
    (
        Cause.MODEL_UNAVAILABLE,
        http(404, "The API deployment does not exist.", "DeploymentNotFound", endpoint="POST /x"),
    ),
    (Cause.THREAD_BUSY, http(409)),
    (Cause.CONTEXT_TOO_LONG, http(413, "Request Entity Too Large")),
    (Cause.NETWORK, Failure("error", type="ConnectionResetError", message="Connection reset by peer")),
    (Cause.NETWORK, Failure("error", details={"exception": "RemoteProtocolError"})),
    (Cause.RATE_LIMITED, Failure("error", type="RateLimitError", message="Slow down.")),
    (Cause.PROVIDER_ERROR, Failure("error", message="It broke.", details={"event": "error"})),
    (Cause.INCOMPLETE, Failure("failed", details={"incomplete_reason": "steered"})),
    (Cause.INCOMPLETE, Failure("incomplete", details={"incomplete_reason": "max_messages"})),
    (Cause.CANCELLED, Failure("incomplete", details={"incomplete_reason": "run_cancelled"})),
    (Cause.EXPIRED, Failure("incomplete", details={"incomplete_reason": "run_expired"})),
    (Cause.OVER_BUDGET, Failure("refused", "over_budget", message="this run may cost 0.12 USD")),
]


@pytest.mark.parametrize(
    ("cause", "facts"), CASES, ids=[f"{number}-{cause.value}" for number, (cause, _) in enumerate(CASES)]
)
def test_the_facts_name_the_cause(cause, facts):
    assert diagnose(facts) is cause


def test_every_cause_has_a_case():
    assert {cause for cause, _ in CASES} == set(Cause)


def test_the_causes_are_those_of_the_contract():
    assert " ".join(Cause) == (
        "assistant_missing assistant_misconfigured instructions_too_long too_many_tools tool_not_supported "
        "content_not_supported empty_memory rate_limited quota_exhausted context_too_long content_filtered authentication "
        "permission model_unavailable provider_error provider_gone thread_missing thread_busy timed_out network expired "
        "cancelled incomplete tool_failed history_refused file_missing over_budget interrupted unknown"
    )


@pytest.mark.parametrize("cause", Cause)
def test_our_own_refusal_names_its_cause_itself(cause):
    assert diagnose(Failure("refused", cause.value)) is cause


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_advice_that_names_a_setting_or_a_command(cause):
    advice = advise(cause)
    assert advice == ADVICE[cause]
    assert re.search(
        r"\b(OPENAI|THREADLEDGER|USE)_[A-Z_]{3,}\b|threadledger (replay|audit|show|doctor)\b|threadledger\.open\(",
        advice,
    )
    assert advice.endswith(".")
    assert "\n" not in advice


SETTINGS = {
    "THREADLEDGER_ON_LOSS",
    "THREADLEDGER_MEMORY_LAST",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_AD_TOKEN",
    "OPENAI_API_VERSION",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "OPENAI_ASSISTANT_ID",
    "OPENAI_MODEL",
    "USE_ASSISTANTS_API",
    "THREADLEDGER_BACKENDS",
    "THREADLEDGER_PROFILE",
    "THREADLEDGER_FALLBACK_MODEL",
    "THREADLEDGER_RETRIES",
    "THREADLEDGER_TIMEOUT_SECONDS",
    "THREADLEDGER_MEMORY_TOKENS",
    "THREADLEDGER_MAX_COST_PER_CONVERSATION",
    "THREADLEDGER_MAX_COST_PER_OWNER_DAY",
    "THREADLEDGER_BUDGET_OUTPUT_TOKENS",
}


@pytest.mark.parametrize("cause", Cause)
def test_advice_names_only_settings_that_there_are(cause):
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", advise(cause))) <= SETTINGS


def test_a_backend_is_unwell_for_what_everybody_who_asks_it_meets():
    assert {cause.value for cause in BACKEND_UNWELL} == {
        "provider_error",
        "provider_gone",
        "timed_out",
        "network",
        "rate_limited",
        "quota_exhausted",
        "authentication",
        "permission",
        "expired",
        "model_unavailable",
    }


def test_what_is_retried_is_what_can_have_another_end():
    assert {cause.value for cause in Cause if may_succeed_when_retried(cause)} == {
        "rate_limited",
        "provider_error",
        "thread_missing",
        "thread_busy",
        "timed_out",
        "network",
        "expired",
        "interrupted",
    }


@pytest.mark.parametrize(
    ("facts", "worth"),
    [
        (http(503), True),
        (Failure("error", details={"exception": "APIConnectionError"}), True),
        (Failure("error", "redirect_refused"), False),
        (http(307), False),
        (http(404, "Not Found", endpoint="POST /chat/completions"), False),
        (http(400, "messages.1: unexpected role", kind=REQUEST), False),
        (http(404, "No such File object: file-abc", kind=REQUEST), False),
        (Failure("error", code="429", retry_after_seconds=1.0), True),
        (Failure("error", code="429", retry_after_seconds=86_400.0), False),
    ],
)
def test_a_wrong_address_and_a_refused_history_are_not_worth_a_retry(facts, worth):
    assert is_worth_a_retry(facts) is worth


def test_a_redirect_has_advice_of_its_own():
    assert "nothing was sent there: set OPENAI_BASE_URL" in advise(Cause.NETWORK, "redirect_refused")


@for_all(
    st.builds(
        Failure,
        status=st.text(max_size=8),
        code=st.none() | st.text(max_size=8),
        type=st.none() | st.text(max_size=8),
        message=st.none() | st.text(max_size=30),
        http_status=st.sampled_from([None, 200, 400, 401, 403, 404, 410, 429, 500]),
        param=st.none() | st.text(max_size=8),
        details=st.dictionaries(
            st.sampled_from(["endpoint", "exception", "incomplete_reason", "prompt_tokens", "body", "content_type"]),
            st.none() | st.text(max_size=8) | st.integers(),
        ),
    )
)
def test_any_facts_have_a_cause(facts):
    assert diagnose(facts) in Cause


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (http(429, "Slow down.", "rate_limit_exceeded"), "HTTP 429: rate_limit_exceeded: Slow down."),
        (Failure("expired"), "expired"),
        (Failure("failed", "server_error", message="Sorry."), "server_error: Sorry."),
        (http(503), "HTTP 503: error"),
    ],
)
def test_the_facts_are_told_in_one_line(facts, line):
    assert facts.summary() == line
