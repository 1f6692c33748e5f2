"""Every exception of the SDK, and every error that a provider sends, as facts that have a cause.

What there is to map is asked of the SDK itself: a new exception or a new code fails here until it has its cause.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from freezegun import freeze_time
from openai.types.beta.threads.message import IncompleteDetails as MessageIncomplete
from openai.types.beta.threads.run import IncompleteDetails as RunIncomplete
from openai.types.beta.threads.run import LastError
from openai.types.beta.threads.runs.run_step import LastError as StepError
from openai.types.chat.chat_completion import Choice
from openai.types.responses import ResponseError
from openai.types.responses.response import IncompleteDetails

from threadledger.adapters.openai import Client, failure_of, failure_of_event
from threadledger.adapters.openai.client import calling
from threadledger.domain.durations import duration_seconds, retry_after
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, Failure, diagnose

CHAT, RESPONSES = "POST /chat/completions", "POST /responses"
REQUEST = httpx2.Request("POST", "https://api.openai.com/v1/responses")
INVALID = "invalid_request_error"


@pytest.fixture
def sdk(simulator: Any) -> Iterator[Any]:
    """The real SDK on the simulator, as our backends have it."""
    client = Client(api_key="sk-test", base_url=simulator.base_url)
    yield client.sdk
    client.close()


def ask(sdk: Any, **given: Any) -> Any:
    return sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], **given)


def refused(sdk: Any, **given: Any) -> Failure:
    """What a call that goes wrong comes up as."""
    with pytest.raises(ProviderRefused) as caught, calling(CHAT):
        list(ask(sdk, **given)) if given else ask(sdk)
    return caught.value.failure


# Exceptions


def http(kind: Any, status: int, **body: Any) -> Callable[[], Exception]:
    """An exception as the SDK makes it of an answer: `body` is what stands in the envelope."""
    given = {"message": "No.", "type": None, "param": None, "code": None} | body if body else None
    return lambda: kind("No.", response=httpx2.Response(status, request=REQUEST), body=given)


def completion() -> Any:
    message = {"role": "assistant", "content": "Hal"}
    choices = [{"index": 0, "finish_reason": "length", "message": message}]
    return openai.types.chat.ChatCompletion.model_validate(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    )


EXCEPTIONS: dict[str, list[tuple[Callable[[], Exception], Cause]]] = {
    "OpenAIError": [(lambda: openai.OpenAIError("Missing credentials."), Cause.AUTHENTICATION)],
    "SubjectTokenProviderError": [
        (lambda: made("openai._exceptions", "SubjectTokenProviderError", "No token file."), Cause.AUTHENTICATION)
    ],
    "OAuthError": [
        (
            lambda: openai.OAuthError(
                response=httpx2.Response(400, request=REQUEST), body={"error": "invalid_grant"}
            ),
            Cause.AUTHENTICATION,
        )
    ],
    "MutuallyExclusiveAuthError": [(lambda: made("openai.lib.azure", "MutuallyExclusiveAuthError"), Cause.AUTHENTICATION)],
    "_AmbiguousModuleClientUsageError": [
        (lambda: made("openai", "_AmbiguousModuleClientUsageError"), Cause.AUTHENTICATION)
    ],
    "APIError": [
        (lambda: openai.APIError("It broke.", REQUEST, body={"message": "It broke."}), Cause.PROVIDER_ERROR),
        (lambda: openai.APIError("Slow.", REQUEST, body={"code": "rate_limit_exceeded"}), Cause.RATE_LIMITED),
    ],
    "APIResponseValidationError": [
        (lambda: openai.APIResponseValidationError(httpx2.Response(200, request=REQUEST), "<html>"), Cause.PROVIDER_ERROR)
    ],
    "APIStatusError": [
        (http(openai.APIStatusError, 408), Cause.TIMED_OUT),
        (http(openai.APIStatusError, 410), Cause.PROVIDER_GONE),
        (http(openai.APIStatusError, 413), Cause.CONTEXT_TOO_LONG),
    ],
    "APIConnectionError": [(lambda: openai.APIConnectionError(request=REQUEST), Cause.NETWORK)],
    "APITimeoutError": [(lambda: openai.APITimeoutError(REQUEST), Cause.TIMED_OUT)],
    "BadRequestError": [
        (http(openai.BadRequestError, 400, type=INVALID, code="context_length_exceeded"), Cause.CONTEXT_TOO_LONG),
        (http(openai.BadRequestError, 400, type=INVALID, code="unknown_parameter", param="tols"), Cause.ASSISTANT_MISCONFIGURED),
        (http(openai.BadRequestError, 400, code="OperationNotSupported"), Cause.MODEL_UNAVAILABLE),
    ],
    "AuthenticationError": [(http(openai.AuthenticationError, 401, code="invalid_api_key"), Cause.AUTHENTICATION)],
    "PermissionDeniedError": [(http(openai.PermissionDeniedError, 403), Cause.PERMISSION)],
    "NotFoundError": [
        (http(openai.NotFoundError, 404), Cause.NETWORK),
        (http(openai.NotFoundError, 404, code="model_not_found"), Cause.MODEL_UNAVAILABLE),
        (http(openai.NotFoundError, 404, code="DeploymentNotFound"), Cause.MODEL_UNAVAILABLE),
    ],
    "ConflictError": [(http(openai.ConflictError, 409), Cause.THREAD_BUSY)],
    "UnprocessableEntityError": [(http(openai.UnprocessableEntityError, 422), Cause.HISTORY_REFUSED)],
    "RateLimitError": [
        (http(openai.RateLimitError, 429, code="rate_limit_exceeded"), Cause.RATE_LIMITED),
        (http(openai.RateLimitError, 429, code="insufficient_quota"), Cause.QUOTA_EXHAUSTED),
    ],
    "InternalServerError": [
        (http(openai.InternalServerError, 500), Cause.PROVIDER_ERROR),
        (http(openai.InternalServerError, 529), Cause.PROVIDER_ERROR),
        (http(openai.InternalServerError, 504), Cause.TIMED_OUT),
    ],
    "LengthFinishReasonError": [(lambda: openai.LengthFinishReasonError(completion=completion()), Cause.INCOMPLETE)],
    "ContentFilterFinishReasonError": [(openai.ContentFilterFinishReasonError, Cause.CONTENT_FILTERED)],
    "WebSocketConnectionClosedError": [
        (lambda: openai.WebSocketConnectionClosedError("closed", unsent_messages=[]), Cause.NETWORK)
    ],
    "WebSocketQueueFullError": [(lambda: openai.WebSocketQueueFullError("full"), Cause.NETWORK)],
    "StreamAlreadyConsumed": [(lambda: made("openai._response", "StreamAlreadyConsumed"), Cause.PROVIDER_ERROR)],
}  # fmt: skip

NOT_OF_OUR_CALLS = {
    "APIRemovedInV1": "raised by names of the SDK before 1.0",
    "MissingDependencyError": "raised by helpers with dependencies of their own (voice, data frames)",
    "AgentOutputParseError": "raised by the helpers for hosted agents",
    "AgentTurnResultError": "raised by the helpers for hosted agents",
    "AgentFilePreparationError": "raised by the helpers for hosted agents",
    "AgentFileStagingError": "raised by the helpers for hosted agents",
}


def made(module: str, name: str, *arguments: str) -> Exception:
    error: Exception = getattr(import_module(module), name)(*arguments)
    return error


def classes_of_the_sdk() -> set[str]:
    """The names of `OpenAIError` and all below it, read in the SDK's source: not every module can be imported."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in Path(openai.__file__).parent.rglob("*.py"))
    bases = re.findall(r"^class (\w+)\(([^)]*)\):", text, re.MULTILINE)
    found = {"OpenAIError"}
    while more := {name for name, given in bases if found & set(re.findall(r"\w+", given))} - found:
        found |= more
    return found


def test_the_sdk_raises_nothing_that_this_table_does_not_know():
    assert classes_of_the_sdk() == EXCEPTIONS.keys() | NOT_OF_OUR_CALLS.keys()


CASES = [(name, make, cause) for name, cases in EXCEPTIONS.items() for make, cause in cases]


@pytest.mark.parametrize(("name", "make", "cause"), CASES, ids=[f"{n}-{c.value}" for n, _, c in CASES])
def test_every_exception_of_the_sdk_has_its_cause(name, make, cause):
    error = make()
    assert type(error).__name__ == name
    failure = failure_of(error, RESPONSES, "conv_1", "resp_1")
    assert diagnose(failure) is cause
    assert cause is not Cause.UNKNOWN
    assert (failure.status, failure.thread_id, failure.remote_run_id) == ("error", "conv_1", "resp_1")
    json.dumps(dict(failure.details))


NAMED_ALONE = {
    "RateLimitError": Cause.RATE_LIMITED,
    "APITimeoutError": Cause.TIMED_OUT,
    "APIConnectionError": Cause.NETWORK,
    "AuthenticationError": Cause.AUTHENTICATION,
    "PermissionDeniedError": Cause.PERMISSION,
    "InternalServerError": Cause.PROVIDER_ERROR,
    "ConnectionResetError": Cause.NETWORK,
    "ConnectTimeout": Cause.TIMED_OUT,
    "TypeError": Cause.UNKNOWN,  # the app's own, not the provider's
}


@pytest.mark.parametrize(("name", "cause"), NAMED_ALONE.items())
def test_in_an_apps_own_run_the_exceptions_name_alone_tells(name, cause):
    assert diagnose(Failure("error", type=name, message="No.")) is cause


@pytest.mark.parametrize(
    ("base", "expected"), [(httpx2.TimeoutException, Cause.TIMED_OUT), (httpx2.NetworkError, Cause.NETWORK)]
)
def test_every_way_in_which_http_fails_is_known(base, expected):
    """What the SDK lets through while a stream is read, and what an app's own client raises."""
    kinds = base.__subclasses__()
    assert kinds
    assert {kind.__name__: diagnose(failure_of(kind("broken"), CHAT)) for kind in kinds} == {
        kind.__name__: expected for kind in kinds
    }


# Codes, reasons and ends


def literals(model: Any, field: str) -> set[str]:
    """The values that the SDK's type of a field allows."""
    hint = model.model_fields[field].annotation
    found = {value for each in typing.get_args(hint) for value in (typing.get_args(each) or (each,))}
    return {value for value in found if isinstance(value, str)}


NOT_TAKEN = (
    "bio_policy", "misalignment_policy_violation", "image_content_policy_violation",
    "invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url", "image_too_large",
    "image_too_small", "image_parse_error", "invalid_image_mode", "image_file_too_large",
    "unsupported_image_media_type", "empty_image_file",
)  # fmt: skip

CODES = {
    "server_error": Cause.PROVIDER_ERROR,
    "rate_limit_exceeded": Cause.RATE_LIMITED,
    "invalid_prompt": Cause.ASSISTANT_MISCONFIGURED,
    "data_residency_mismatch": Cause.PERMISSION,
    "vector_store_timeout": Cause.TIMED_OUT,
    "failed_to_download_image": Cause.FILE_MISSING,
    "image_file_not_found": Cause.FILE_MISSING,
    **dict.fromkeys(NOT_TAKEN, Cause.CONTENT_FILTERED),
}

REASONS = {
    "max_output_tokens": Cause.INCOMPLETE,
    "max_completion_tokens": Cause.INCOMPLETE,
    "max_tokens": Cause.INCOMPLETE,
    "max_messages": Cause.INCOMPLETE,
    "steered": Cause.INCOMPLETE,
    "max_prompt_tokens": Cause.CONTEXT_TOO_LONG,
    "content_filter": Cause.CONTENT_FILTERED,
    "run_cancelled": Cause.CANCELLED,
    "run_expired": Cause.EXPIRED,
    "run_failed": Cause.PROVIDER_ERROR,
}

FINISHES = {
    "stop": Cause.INCOMPLETE,  # a failure only where nothing was said
    "length": Cause.INCOMPLETE,
    "tool_calls": Cause.INCOMPLETE,
    "function_call": Cause.INCOMPLETE,
    "content_filter": Cause.CONTENT_FILTERED,
}


def test_the_tables_hold_every_code_reason_and_finish_of_the_sdks_types():
    assert literals(ResponseError, "code") | literals(LastError, "code") | literals(StepError, "code") == CODES.keys()
    reasons = [literals(each, "reason") for each in (IncompleteDetails, RunIncomplete, MessageIncomplete)]
    assert set().union(*reasons) == REASONS.keys()
    assert literals(Choice, "finish_reason") == FINISHES.keys()


@pytest.mark.parametrize(("code", "cause"), CODES.items())
def test_every_code_has_its_cause_in_a_failed_run_a_refusal_and_a_stream(code, cause):
    event = {"type": "error", "code": code, "message": "No.", "param": None, "sequence_number": 3}
    failures = [
        Failure("failed", code, message="No."),
        Failure("error", code, INVALID, "No.", 400, details={"endpoint": RESPONSES}),
        failure_of_event(event, RESPONSES),
    ]
    assert [diagnose(failure) for failure in failures] == [cause] * 3


@pytest.mark.parametrize("status", ["incomplete", "failed", "error"])
@pytest.mark.parametrize(("reason", "cause"), REASONS.items())
def test_every_reason_of_half_an_answer_has_its_cause_whatever_the_status(reason, cause, status):
    assert diagnose(Failure(status, details={"incomplete_reason": reason})) is cause


@pytest.mark.parametrize(("finish", "cause"), FINISHES.items())
def test_every_finish_without_an_answer_has_its_cause(finish, cause):
    assert diagnose(Failure("incomplete", "empty_answer", details={"finish_reason": finish})) is cause


# Real bodies over a real wire

BODIES: dict[str, tuple[dict[str, Any], Cause]] = {
    "rate": ({"status": 429, "type": "requests", "code": "rate_limit_exceeded",
              "message": "Rate limit reached for gpt-6 on requests per min (RPM): Limit 3."}, Cause.RATE_LIMITED),
    "quota": ({"status": 429, "type": "insufficient_quota", "code": "insufficient_quota",
               "message": "You exceeded your current quota, please check your plan."}, Cause.QUOTA_EXHAUSTED),
    "key": ({"status": 401, "type": INVALID, "code": "invalid_api_key",
             "message": "Incorrect API key provided: sk-pr***abcd."}, Cause.AUTHENTICATION),
    "locked": ({"status": 400, "type": INVALID, "code": "conversation_locked", "param": "conversation",
                "message": "Another process is currently operating on this conversation. Please retry in a few seconds."},
               Cause.THREAD_BUSY),
    "active run": ({"status": 400, "type": INVALID,
                    "message": "Can't add messages to thread_a while a run run_b is active."}, Cause.THREAD_BUSY),
    "orphan call": ({"status": 400, "type": INVALID, "param": "input",
                     "message": "No tool output found for function call call_abc."}, Cause.HISTORY_REFUSED),
    "window": ({"status": 400, "type": INVALID, "code": "context_length_exceeded", "param": "input",
                "message": "Your input exceeds the context window of this model."}, Cause.CONTEXT_TOO_LONG),
    "model": ({"status": 404, "type": INVALID, "code": "model_not_found",
               "message": "The model `gpt-4` does not exist or you do not have access to it."}, Cause.MODEL_UNAVAILABLE),
    "deployment": ({"status": 404, "code": "DeploymentNotFound",
                    "message": "The API deployment for this resource does not exist."}, Cause.MODEL_UNAVAILABLE),
    "tool": ({"status": 400, "type": INVALID, "code": "invalid_value", "param": "tools[0].type",
              "message": "Invalid value: 'web_search'. Supported values are: 'code_interpreter', 'function', and "
                         "'file_search'."}, Cause.TOOL_NOT_SUPPORTED),
    "tools": ({"status": 400, "type": INVALID, "code": "array_above_max_length", "param": "tools",
               "message": "Invalid 'tools': array too long. Expected an array with maximum length 128."},
              Cause.TOO_MANY_TOOLS),
    "instructions": ({"status": 400, "type": INVALID, "code": "string_above_max_length", "param": "instructions",
                      "message": "Invalid 'instructions': string too long."}, Cause.INSTRUCTIONS_TOO_LONG),
    "country": ({"status": 403, "type": "request_forbidden", "code": "unsupported_country_region_territory",
                 "message": "Country, region, or territory not supported"}, Cause.PERMISSION),
    "no route": ({"status": 404, "message": "Not found"}, Cause.NETWORK),
    "gone": ({"status": 410, "message": "Gone"}, Cause.PROVIDER_GONE),
    "overloaded": ({"status": 503, "type": "server_error",
                    "message": "The engine is currently overloaded, please try again later."}, Cause.PROVIDER_ERROR),
    "conflict": ({"status": 409, "message": "Conflict"}, Cause.THREAD_BUSY),
    "sorry": ({"status": 500, "type": "server_error", "message": "Sorry, something went wrong."}, Cause.PROVIDER_ERROR),
    "memory": ({"status": 400, "type": INVALID, "code": "invalid_value", "param": "input[1].content[0]",
                "message": "Invalid value: 'input_text'. Supported values are: 'output_text' and 'refusal'."},
               Cause.HISTORY_REFUSED),
}  # fmt: skip


@pytest.mark.parametrize(("body", "cause"), BODIES.values(), ids=BODIES)
def test_a_refusal_over_the_wire_has_its_cause_and_its_facts(sdk, simulator, body, cause):
    simulator.add_fault(CHAT, refuse=body)
    failure = refused(sdk)
    assert diagnose(failure) is cause
    assert (failure.http_status, failure.code, failure.param) == (body["status"], body.get("code"), body.get("param"))
    assert failure.request_id


# When to ask again


NOON = "2026-11-20 12:00:00"
IN_A_MINUTE = "Fri, 20 Nov 2026 12:01:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": IN_A_MINUTE}, 60.0),
        ({"retry-after": "Friday, 20-Nov-26 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri Nov 20 12:00:10 2026"}, 10.0),
        ({"retry-after": "Fri, 20 Nov 2026 13:00:05 +0100"}, 5.0),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 99 Nov 2026 12:01:00 GMT"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers, seconds):
    with freeze_time(NOON):
        assert retry_after(headers, 429) == seconds
        assert retry_after(headers, 503) == seconds


def test_the_date_is_read_from_the_answer_that_the_sdk_raised():
    answer = httpx2.Response(429, request=REQUEST, headers={"Retry-After": IN_A_MINUTE})
    with freeze_time(NOON):
        failure = failure_of(openai.RateLimitError("No.", response=answer, body=None), RESPONSES)
    assert failure.retry_after_seconds == 60.0


def spent(**given: str) -> dict[str, str]:
    return {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in given.items()}


LIMITS = {
    "requests used up": (spent(remaining_requests="0", reset_requests="1s"), 1.0),
    "tokens used up": (
        spent(remaining_requests="5", reset_requests="9s", remaining_tokens="0", reset_tokens="6m0s"), 360.0
    ),
    "both: the longest": (
        spent(remaining_requests="0", reset_requests="20ms", remaining_tokens="0", reset_tokens="1.5s"), 1.5
    ),
    "hours": (spent(remaining_tokens="0", reset_tokens="1h2m"), 3720.0),
    "bare seconds": (spent(remaining_tokens="0", reset_tokens="12"), 12.0),
    "less than nothing left": (spent(remaining_tokens="-1", reset_tokens="3s"), 3.0),
    "nothing used up": (spent(remaining_requests="1", reset_requests="1s"), None),
    "no reset": (spent(remaining_requests="0"), None),
    "nonsense": (spent(remaining_requests="0", reset_requests="soon", remaining_tokens="none"), None),
    "Retry-After goes before": ({"retry-after": "2", **spent(remaining_requests="0", reset_requests="9s")}, 2.0),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "seconds"), LIMITS.values(), ids=LIMITS)
def test_a_429_without_retry_after_waits_until_the_limits_that_are_used_up_are_full_again(
    sdk, simulator, headers, seconds
):
    simulator.add_fault(CHAT, refuse={"status": 429, "headers": headers})
    assert refused(sdk).retry_after_seconds == seconds


def test_rate_limit_headers_say_nothing_about_another_failure(sdk, simulator):
    headers = spent(remaining_requests="0", reset_requests="9s")
    simulator.add_fault(CHAT, refuse={"status": 500, "headers": headers})
    assert refused(sdk).retry_after_seconds is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("20ms", 0.02), ("6m0s", 360.0), ("1h2m", 3720.0), ("1d", 86400.0), (" 7.66s ", 7.66), ("3", 3.0)]
    + [(text, None) for text in ("", "s", "1x", "1s!", "-1s", "1 s", "s1", "1m soon")],
)
def test_a_duration_is_read_whole_or_not_at_all(text, seconds):
    assert duration_seconds(text) == pytest.approx(seconds)


# Streams

FLAT = {"code": "rate_limit_exceeded", "message": "Slow down.", "param": "model", "type": "tokens"}


def events(*lines: Any) -> dict[str, Any]:
    text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines)
    return {"text": text, "content_type": "text/event-stream"}


def test_an_error_that_the_sdk_raises_within_a_stream_has_its_facts(sdk, simulator):
    simulator.add_fault(CHAT, reply=events({"error": FLAT}))
    failure = refused(sdk, stream=True)
    assert (failure.code, failure.type, failure.param, failure.message) == (
        "rate_limit_exceeded", "tokens", "model", "Slow down."
    )  # fmt: skip
    assert failure.http_status is None
    assert diagnose(failure) is Cause.RATE_LIMITED


def test_an_error_without_a_code_within_a_stream_is_the_providers(sdk, simulator):
    simulator.add_fault(CHAT, reply=events({"error": {"message": "The stream broke."}}))
    assert diagnose(refused(sdk, stream=True)) is Cause.PROVIDER_ERROR


def test_an_error_event_that_the_sdk_hands_over_has_its_facts(sdk, simulator):
    event = {"type": "error", "code": "server_error", "message": "Sorry.", "param": None, "sequence_number": 1}
    simulator.add_fault(RESPONSES, reply=events(event))
    handed_over = list(sdk.responses.create(model="m", input="hello", stream=True))
    assert [each.type for each in handed_over] == ["error"]
    failure = failure_of_event(handed_over[0].to_dict(), RESPONSES, "conv_1", "resp_1")
    assert (failure.status, failure.code, failure.type, failure.message) == ("error", "server_error", None, "Sorry.")
    assert (failure.thread_id, failure.remote_run_id) == ("conv_1", "resp_1")
    assert diagnose(failure) is Cause.PROVIDER_ERROR


@pytest.mark.parametrize(
    "event",
    [
        FLAT,
        {"error": FLAT},
        {"type": "error", "error": FLAT},
        {"event": "error", "data": FLAT},
        {"data": {"error": FLAT}},
    ],
)
def test_an_error_event_is_read_flat_or_nested(event):
    failure = failure_of_event(event, RESPONSES)
    assert (failure.code, failure.type, failure.message, failure.param) == (
        "rate_limit_exceeded", "tokens", "Slow down.", "model"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("event", "message"),
    [({}, None), ({"error": "overloaded"}, "overloaded"), ({"data": "Too much."}, "Too much."), ({"error": [1]}, None),
     ({"message": {"text": "odd"}}, "odd"), ({"message": None, "code": 7}, None)],
)  # fmt: skip
def test_an_error_event_of_another_shape_is_still_the_providers_failure(event, message):
    failure = failure_of_event(event, RESPONSES)
    assert failure.message == message
    assert diagnose(failure) is Cause.PROVIDER_ERROR


def test_a_secret_in_an_error_event_is_not_kept():
    failure = failure_of_event({"message": "Bad key sk-proj-0123456789abcdef"}, RESPONSES)
    assert "0123456789" not in repr(failure)
