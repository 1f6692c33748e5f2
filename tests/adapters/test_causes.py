"""One test per cause: what the provider really sends, over HTTP, through the real SDK and a whole exchange, to the cause and
the advice that stand in the audit.

Bodies: the provider's own, as documented or reported (OpenAI's and Azure's error envelopes, runs, responses); those of other
servers that speak the protocol behind them. `unknown` is left for what nobody can know.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from threadledger.domain.conversation import RunPlan
from threadledger.domain.errors import AllBackendsFailed
from threadledger.domain.failures import Cause, RecordedFailure, advise, redact
from threadledger.domain.ledger import Ledger

RUNS, RUN = "POST /threads/{thread_id}/runs", "GET /threads/{thread_id}/runs/{run_id}"
ASSISTANTS, RESPONSES, CHAT = "POST /assistants", "POST /responses", "POST /chat/completions"
INVALID = "invalid_request_error"

PLACES = {
    "assistants": {"backends": ("assistants",), "threads": "assistants"},
    "responses": {"backends": ("responses",), "threads": "conversations"},
    "chat": {"backends": ("chat",), "threads": "none"},
}


@dataclass(frozen=True)
class Sent:
    """What is sent, and what it is told as."""

    cause: Cause
    backend: str
    on: str
    status: int = 200
    body: Any = None
    """Sent as it is: the bytes of the answer."""
    fault: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    code: str | None = None
    type: str | None = None
    http_status: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def told(self) -> str:
        return self.name or f"{self.cause.value} on {self.backend}"


def envelope(message: str, kind: str | None = INVALID, param: str | None = None, code: str | None = None) -> Any:
    """The provider's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refused(
    cause: Cause,
    backend: str,
    on: str,
    status: int,
    message: str,
    kind: str | None = INVALID,
    param: str | None = None,
    code: str | None = None,
    name: str = "",
) -> Sent:
    """An HTTP error in the envelope."""
    body = envelope(message, kind, param, code)
    return Sent(cause, backend, on, status, body, code=code, type=kind, http_status=status, name=name)


def failed_run(**fields: Any) -> dict[str, Any]:
    """A run of the Assistants API as it is read, in its end."""
    usual = {"id": "run_1", "object": "thread.run", "created_at": 1, "thread_id": "thread_1", "assistant_id": "asst_1"}
    usual |= {"status": "failed", "required_action": None, "last_error": None, "incomplete_details": None}
    usual |= {"model": "gpt-5.5", "instructions": "", "tools": [], "metadata": {}, "usage": None}
    return usual | fields


SORRY = {"code": "server_error", "message": "Sorry, something went wrong."}
NOTHING_READ = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

CASES = [
    refused(Cause.ASSISTANT_MISSING, "assistants", RUNS, 404, "No assistant found with id 'asst_1'."),
    Sent(
        Cause.ASSISTANT_MISCONFIGURED,
        "assistants",
        RUN,
        body=failed_run(last_error={"code": "invalid_prompt", "message": "Invalid prompt: tools are misconfigured."}),
        code="invalid_prompt",
    ),
    refused(
        Cause.INSTRUCTIONS_TOO_LONG,
        "assistants",
        ASSISTANTS,
        400,
        "Invalid 'instructions': string too long. Expected a string with maximum length 256000, but got a string with "
        "length 300000 instead.",
        param="instructions",
        code="string_above_max_length",
    ),
    refused(
        Cause.TOO_MANY_TOOLS,
        "assistants",
        ASSISTANTS,
        400,
        "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 130 "
        "instead.",
        param="tools",
        code="array_above_max_length",
    ),
    refused(
        Cause.TOOL_NOT_SUPPORTED,
        "assistants",
        ASSISTANTS,
        400,
        "Invalid value: 'web_search'. Supported values are: 'code_interpreter', 'function', and 'file_search'.",
        param="tools[0].type",
        code="invalid_value",
    ),
    Sent(
        Cause.EMPTY_MEMORY,
        "assistants",
        RUN,
        body=failed_run(last_error=SORRY, usage=NOTHING_READ),
        code="server_error",
    ),
    refused(
        Cause.RATE_LIMITED,
        "responses",
        RESPONSES,
        429,
        "Rate limit reached for gpt-5.5 in organization org-abc on tokens per min (TPM): Limit 30000, Used 29000, "
        "Requested 2000. Please try again in 2s.",
        "tokens",
        code="rate_limit_exceeded",
    ),
    refused(
        Cause.QUOTA_EXHAUSTED,
        "responses",
        RESPONSES,
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        code="insufficient_quota",
    ),
    refused(
        Cause.CONTEXT_TOO_LONG,
        "chat",
        CHAT,
        400,
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens. Please "
        "reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    ),
    refused(
        Cause.CONTENT_FILTERED,
        "chat",
        CHAT,
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        None,
        param="prompt",
        code="content_filter",
    ),
    refused(
        Cause.AUTHENTICATION,
        "responses",
        RESPONSES,
        401,
        "Incorrect API key provided: sk-tes********test. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    ),
    refused(
        Cause.PERMISSION,
        "responses",
        RESPONSES,
        403,
        "Country, region, or territory not supported",
        "request_forbidden",
        code="unsupported_country_region_territory",
    ),
    refused(
        Cause.MODEL_UNAVAILABLE,
        "chat",
        CHAT,
        404,
        "The model `gpt-4` does not exist or you do not have access to it.",
        code="model_not_found",
    ),
    Sent(Cause.PROVIDER_ERROR, "assistants", RUN, body=failed_run(last_error=SORRY), code="server_error"),
    refused(Cause.PROVIDER_GONE, "assistants", "POST /threads", 404, "Invalid URL (POST /v1/threads)"),
    refused(Cause.THREAD_MISSING, "responses", RESPONSES, 404, "Conversation with id 'conv_1' not found."),
    refused(
        Cause.THREAD_BUSY,
        "responses",
        RESPONSES,
        400,
        "Another process is currently operating on this conversation. Please retry in a few seconds.",
        param="conversation",
        code="conversation_locked",
    ),
    Sent(Cause.TIMED_OUT, "chat", CHAT, fault={"hang": 30.0}, settings={"timeout_seconds": 0.3}),
    Sent(Cause.NETWORK, "chat", CHAT, fault={"drop": True}),
    Sent(Cause.EXPIRED, "assistants", RUN, body=failed_run(status="expired")),
    Sent(Cause.CANCELLED, "assistants", RUN, body=failed_run(status="cancelled")),
    Sent(Cause.INCOMPLETE, "responses", RESPONSES, fault={"incomplete": "max_output_tokens"}),
    refused(
        Cause.FILE_MISSING,
        "responses",
        RESPONSES,
        400,
        "Timeout while downloading https://files.example/parcel.png.",
        param="url",
        code="invalid_value",
    ),
    refused(
        Cause.HISTORY_REFUSED,
        "responses",
        RESPONSES,
        400,
        "No tool output found for function call call_abc.",
        param="input",
    ),
    Sent(Cause.UNKNOWN, "chat", CHAT, 418, {"error": "I'm a teapot"}, http_status=418),
]

OTHERS = [
    # The same causes in other words: runs' own ends, Azure, other servers that speak the protocol, what stands before them.
    Sent(
        Cause.RATE_LIMITED,
        "assistants",
        RUN,
        body=failed_run(last_error={"code": "rate_limit_exceeded", "message": "You exceeded your current quota."}),
        code="rate_limit_exceeded",
    ),
    Sent(
        Cause.CONTEXT_TOO_LONG,
        "assistants",
        RUN,
        body=failed_run(status="incomplete", incomplete_details={"reason": "max_prompt_tokens"}),
    ),
    Sent(
        Cause.INCOMPLETE,
        "assistants",
        RUN,
        body=failed_run(status="incomplete", incomplete_details={"reason": "max_completion_tokens"}),
    ),
    refused(
        Cause.THREAD_BUSY,
        "assistants",
        RUNS,
        400,
        "Thread thread_1 already has an active run run_1.",
    ),
    refused(
        Cause.MODEL_UNAVAILABLE,
        "chat",
        CHAT,
        404,
        "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, "
        "please wait a moment and try again.",
        None,
        code="DeploymentNotFound",
        name="a deployment of Azure that is not there",
    ),
    refused(
        Cause.MODEL_UNAVAILABLE,
        "chat",
        CHAT,
        400,
        "The chatCompletion operation does not work with the specified model, gpt-x. Please choose different model and "
        "try again.",
        None,
        code="OperationNotSupported",
        name="a model of Azure that does not chat",
    ),
    refused(
        Cause.AUTHENTICATION,
        "chat",
        CHAT,
        401,
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key.",
        None,
        code="401",
        name="a wrong key on Azure",
    ),
    refused(
        Cause.RATE_LIMITED,
        "chat",
        CHAT,
        429,
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API have exceeded call rate limit of your "
        "current OpenAI S0 pricing tier. Please retry after 6 seconds.",
        None,
        code="429",
        name="a rate limit of Azure",
    ),
    Sent(
        Cause.MODEL_UNAVAILABLE,
        "chat",
        CHAT,
        404,
        {
            **{"object": "error", "message": "The model `gpt-5.5` does not exist.", "type": "NotFoundError"},
            **{"param": None, "code": 404},
        },
        http_status=404,
        name="a model that vLLM does not serve",
    ),
    Sent(
        Cause.MODEL_UNAVAILABLE,
        "chat",
        CHAT,
        404,
        envelope('model "gpt-5.5" not found, try pulling it first', "not_found_error"),
        http_status=404,
        name="a model that Ollama has not",
    ),
    Sent(
        Cause.CONTEXT_TOO_LONG,
        "chat",
        CHAT,
        400,
        {
            **{"object": "error", "type": "BadRequestError", "param": None, "code": 400},
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        },
        http_status=400,
        name="a window that is too small for vLLM",
    ),
    Sent(
        Cause.PROVIDER_ERROR,
        "chat",
        CHAT,
        fault={"reply": {"status": 502, "content_type": "text/html", "text": "<html>Bad Gateway</html>"}},
        http_status=502,
        name="a proxy's 502",
    ),
    Sent(
        Cause.PROVIDER_ERROR,
        "chat",
        CHAT,
        fault={"reply": {"content_type": "text/html", "text": "<html>Please log in</html>"}},
        http_status=200,
        name="a captive portal's 200",
    ),
    Sent(
        Cause.PROVIDER_ERROR,
        "responses",
        RESPONSES,
        fault={"reply": {"text": '{"id": "resp_1", "output": ['}},
        http_status=200,
        name="an answer that was cut off",
    ),
    Sent(Cause.TIMED_OUT, "chat", CHAT, 504, envelope("upstream timed out", None), http_status=504, name="a 504"),
    Sent(Cause.CONTENT_FILTERED, "chat", CHAT, fault={"incomplete": "content_filter"}, name="a filtered answer"),
]


def asked(ledger: Ledger) -> RecordedFailure:
    """The failure of one question, as the audit has it."""
    with pytest.raises(AllBackendsFailed) as nobody:
        ledger.conversation("k").ask("Where is my parcel?")
    (failure,) = ledger.failures()
    assert [each.run_id for each in nobody.value.failures] == [failure.run_id]
    return failure


@pytest.mark.parametrize("sent", [*CASES, *OTHERS], ids=lambda sent: sent.told)
def test_what_the_provider_sends_has_its_cause_and_advice(
    open_ledger: Callable[..., Ledger], simulator: Any, sent: Sent
) -> None:
    fault = sent.fault or {"reply": {"status": sent.status, "text": json.dumps(sent.body)}}
    simulator.add_fault(sent.on, times=None, **fault)
    failure = asked(open_ledger(retries=0, **PLACES[sent.backend], **sent.settings))
    assert failure.cause is sent.cause, failure.facts
    assert failure.advice == advise(sent.cause, failure.facts.code)
    found = (failure.backend, failure.next, failure.facts.http_status)
    assert found == (sent.backend, "abandoned", sent.http_status)
    if sent.code is not None:
        assert failure.facts.code == sent.code
    if sent.type is not None:
        assert failure.facts.type == sent.type


@pytest.mark.parametrize("sent", [sent for sent in CASES if sent.http_status], ids=lambda sent: sent.told)
def test_the_providers_words_and_its_id_of_the_request_are_kept(
    open_ledger: Callable[..., Ledger], simulator: Any, sent: Sent
) -> None:
    simulator.add_fault(sent.on, times=None, reply={"status": sent.status, "text": json.dumps(sent.body)})
    facts = asked(open_ledger(retries=0, **PLACES[sent.backend])).facts
    said = sent.body["error"]["message"] if isinstance(sent.body["error"], dict) else ""
    assert facts.message == (redact(said) or facts.message)
    assert str(facts.request_id).startswith("req_")
    assert facts.request_id in {request.request_id for request in simulator.requests}


def test_a_process_that_stopped_leaves_an_interrupted_run(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger(**PLACES["chat"])
    plan = RunPlan("chat", "m", timeout_seconds=-3_600.0)
    ledger.journal.commit("k", lambda it: it.start_run("x", plan), create=True)
    (failure,) = ledger.failures()
    assert (failure.cause, failure.advice) == (Cause.INTERRUPTED, advise(Cause.INTERRUPTED))


def test_every_cause_but_those_that_are_not_the_providers_has_what_the_provider_sends() -> None:
    ours = {Cause.INTERRUPTED, Cause.TOOL_FAILED, Cause.CONTENT_NOT_SUPPORTED, Cause.OVER_BUDGET}
    assert {sent.cause for sent in CASES} | ours == set(Cause)


def test_every_other_wording_has_a_cause_that_is_known() -> None:
    assert Cause.UNKNOWN not in {sent.cause for sent in OTHERS}
