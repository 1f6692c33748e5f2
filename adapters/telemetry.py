"""Report runs and exchanges as OpenTelemetry spans and metrics (extra `otel`).

The app configures its SDK as usual; without an SDK, OpenTelemetry does nothing.

    invoke_agent John                        an exchange: from its first run to its answer
      chat gpt-5.5         error rate_limited
      chat gpt-5.5-mini    linked to the previous run: fallback

Spans are created from stored events, with the timestamps of the events. A run that a crash left open therefore gets its
span when another process closes it. Spans are created in the thread that stores the events, so a span of the caller
that is active there becomes their parent.

Source of the names of attributes: github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md,
gen-ai-agent-spans.md and gen-ai-metrics.md, read in November 2026 (status: Development). An earlier draft named
`gen_ai.provider.name` `gen_ai.system`. `error.type`, `server.address` and `server.port` belong to the general
conventions, which are stable.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import context, metrics, trace

from threadledger.domain.journal import ExchangeEnd, RunEnd, SeenRun

SPANS_OPEN_MAX = 10_000
"""Maximum number of open spans; above it, the oldest span is ended without its result."""

PROVIDERS_BACKENDS = frozenset({"assistants", "responses", "chat"})
PORTS = {"https": 443, "http": 80}


@dataclass
class _Exchange:
    """Hold the span of an exchange in progress."""

    span: trace.Span
    failed: dict[str, trace.SpanContext] = field(default_factory=dict)
    """Span contexts of its failed runs by run id, for links."""


OPENAI = "openai"


class Telemetry:
    """Implement `Observer` with spans and metrics."""

    def __init__(
        self,
        provider: str = OPENAI,
        endpoint: str = "",
        agent: str = "",
        *,
        text: bool = False,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        """Create the metric instruments.

        Args:
            provider: the provider of the built-in backends, as named by the conventions.
            endpoint: the base URL of the built-in backends.
            agent: the profile's name.
            text: whether spans contain question and answer.
            tracer_provider: the source of tracers; by default the process's global one.
            meter_provider: the source of meters; by default the process's global one.
        """
        self._tracer = trace.get_tracer("threadledger", tracer_provider=tracer_provider)
        meter = metrics.get_meter("threadledger", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            OPERATION_DURATION,
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=OPERATION_DURATION_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            TOKEN_USAGE,
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_USAGE_BUCKETS,
        )
        self._provider = provider
        self._server = _server(endpoint)
        self._agent = agent
        self._text = text
        self._runs: OrderedDict[str, trace.Span] = OrderedDict()
        self._exchanges: OrderedDict[tuple[str, str], _Exchange] = OrderedDict()
        self._lock = Lock()

    def run_started(self, run: SeenRun) -> None:
        """Start the span of a run as a child of its exchange's span."""
        exchange = None if run.shadow else self._exchange(run)
        above = trace.set_span_in_context(exchange.span) if exchange is not None else None
        failed = exchange.failed.get(run.took_over_from or "") if exchange is not None else None
        links = [trace.Link(failed, {LINK: FALLBACK})] if failed is not None else []
        span = self._span(run, above, links)
        with self._lock:
            self._runs[run.run_id] = span
            old = [self._runs.popitem(last=False)[1]] if len(self._runs) > SPANS_OPEN_MAX else []
        for each in old:
            each.end()

    def run_ended(self, end: RunEnd) -> None:
        """End the span of a run, and record its metrics."""
        run = end.run
        with self._lock:
            span = self._runs.pop(run.run_id, None)
            exchange = self._exchanges.get((run.key, run.exchange_id))
        span = span if span is not None else self._span(run, None, [])  # another process started the run
        span.set_attributes(_known(self._answered(end)))
        if end.failure is not None and end.cause is not None:
            span.set_attributes(_known(_failed(end)))
            span.set_status(trace.StatusCode.ERROR, end.failure.code or end.failure.status)
            if exchange is not None:
                exchange.failed[run.run_id] = span.get_span_context()
        if self._text:
            span.set_attributes(_known(_texts(end)))
        span.end(_nanoseconds(end.ended_at))
        self._count(end)

    def exchange_ended(self, end: ExchangeEnd) -> None:
        """End the span of an exchange."""
        with self._lock:
            exchange = self._exchanges.pop((end.key, end.exchange_id), None)
        if exchange is None:
            return
        if end.answered_by is None:
            exchange.span.set_attribute(ERROR_TYPE, GIVEN_UP)
            exchange.span.set_status(trace.StatusCode.ERROR, "no backend answered")
        exchange.span.end(_nanoseconds(end.ended_at))

    def _exchange(self, run: SeenRun) -> _Exchange:
        place = (run.key, run.exchange_id)
        with self._lock:
            found = self._exchanges.get(place)
            if found is not None:
                return found
            attributes = {
                OPERATION: INVOKE_AGENT,
                PROVIDER: self._provider_of(run),
                CONVERSATION_ID: run.key,
                AGENT_NAME: self._agent or None,
                EXCHANGE_ID: run.exchange_id,
            }
            name = f"{INVOKE_AGENT} {self._agent}".strip()
            began = _nanoseconds(run.started_at)
            span = self._tracer.start_span(name, attributes=_known(attributes), start_time=began)
            made = self._exchanges[place] = _Exchange(span)
            if len(self._exchanges) > SPANS_OPEN_MAX:
                self._exchanges.popitem(last=False)[1].span.end()
            return made

    def _span(self, run: SeenRun, above: context.Context | None, links: list[trace.Link]) -> trace.Span:
        attributes = self._common(run) | {
            CONVERSATION_ID: run.key,
            RUN_ID: run.run_id,
            EXCHANGE_ID: run.exchange_id,
            BACKEND: run.backend,
            ATTEMPT: run.attempt,
            RERUN_OF: run.rerun_of,
            SHADOW: run.shadow or None,
        }
        return self._tracer.start_span(
            f"{CHAT} {run.model}",
            context=above,
            kind=trace.SpanKind.CLIENT,
            attributes=_known(attributes),
            links=links,
            start_time=_nanoseconds(run.started_at),
        )

    def _common(self, run: SeenRun) -> dict[str, Any]:
        """Return the attributes that spans and metrics of a run share."""
        ours = self._server if run.backend in PROVIDERS_BACKENDS else {}
        return {OPERATION: CHAT, PROVIDER: self._provider_of(run), REQUEST_MODEL: run.model, **ours}

    def _provider_of(self, run: SeenRun) -> str:
        return self._provider if run.backend in PROVIDERS_BACKENDS else run.backend

    def _answered(self, end: RunEnd) -> dict[str, Any]:
        return {
            RESPONSE_MODEL: end.response_model,
            RESPONSE_ID: end.remote_run_id,
            FINISH_REASONS: [end.finish_reason] if end.finish_reason else None,
            REQUEST_ID: end.request_id,
            INPUT_TOKENS: end.usage.get("input_tokens"),
            OUTPUT_TOKENS: end.usage.get("output_tokens"),
        }

    def _count(self, end: RunEnd) -> None:
        cause = end.cause.value if end.cause is not None else None
        shared = self._common(end.run) | {RESPONSE_MODEL: end.response_model}
        if end.duration_seconds is not None:
            self._duration.record(end.duration_seconds, _known(shared | {ERROR_TYPE: cause}))
        for kind in ("input", "output"):
            tokens = end.usage.get(f"{kind}_tokens")
            if tokens:
                self._tokens.record(tokens, _known(shared | {TOKEN_TYPE: kind}))


def _failed(end: RunEnd) -> dict[str, Any]:
    failure = end.failure
    if failure is None or end.cause is None:
        return {}
    return {
        ERROR_TYPE: end.cause.value,
        STATUS: failure.status,
        ERROR_CODE: failure.code,
        ERROR_KIND: failure.type,
        HTTP_STATUS: failure.http_status,
    }


def _texts(end: RunEnd) -> dict[str, Any]:
    """Return question and answer in the format of the conventions."""
    asked, answered = end.question(), end.answer
    return {
        INPUT_MESSAGES: _message("user", asked) if asked else None,
        OUTPUT_MESSAGES: _message("assistant", answered) if answered else None,
    }


def _message(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}], ensure_ascii=False)


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _server(endpoint: str) -> dict[str, Any]:
    parts = urlsplit(endpoint)
    try:
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        port = None
    return {SERVER_ADDRESS: parts.hostname, SERVER_PORT: port} if parts.hostname and port else {}


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
CONVERSATION_ID = "gen_ai.conversation.id"
AGENT_NAME = "gen_ai.agent.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute, no secret
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
ERROR_TYPE = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

CHAT = "chat"
"""Operation of a run: one call of a model."""
INVOKE_AGENT = "invoke_agent"
"""Operation of an exchange: all runs that tried to answer one question."""

AZURE_OPENAI = "azure.ai.openai"
"""Provider names. An app's own backend is reported under its own name."""

OPERATION_DURATION = "gen_ai.client.operation.duration"
OPERATION_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bucket boundaries, in seconds."""
TOKEN_USAGE = "gen_ai.client.token.usage"  # noqa: S105 - the name of a metric, no secret
TOKEN_USAGE_BUCKETS = tuple(4**power for power in range(14))
"""Bucket boundaries, from 1 to 67,108,864 tokens."""

RUN_ID = "threadledger.run.id"
EXCHANGE_ID = "threadledger.exchange.id"
BACKEND = "threadledger.backend"
ATTEMPT = "threadledger.attempt"
RERUN_OF = "threadledger.rerun_of"
SHADOW = "threadledger.shadow"
STATUS = "threadledger.status"
ERROR_CODE = "threadledger.error.code"
ERROR_KIND = "threadledger.error.type"
HTTP_STATUS = "threadledger.http_status"
REQUEST_ID = "threadledger.request_id"
LINK = "threadledger.link"
"""Reason why a span is linked to another one."""
FALLBACK = "fallback"
"""Link reason: the linked run failed, and this run replaced it on another backend."""
GIVEN_UP = "abandoned"
"""`error.type` of an exchange that no backend answered."""
