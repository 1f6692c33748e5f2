"""Runs and exchanges as spans and metrics by OpenTelemetry's GenAI conventions, through the real SDK of OpenTelemetry."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import threadledger
from threadledger.adapters import Telemetry
from threadledger.domain.conversation import RunPlan
from threadledger.domain.errors import AllBackendsFailed, InvalidSettings
from threadledger.domain.ledger import AsyncLedger, Ledger

CHAT, RESPONSES = "POST /chat/completions", "POST /responses"
TWO = {"backends": ("responses", "chat"), "threads": "none", "retries": 0, "fallback_model": "gpt-small"}
ONE = {"backends": ("chat",), "threads": "none", "retries": 0}


class Collected:
    """An exporter of spans and a reader of metrics, both in memory."""

    def __init__(self) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._metrics])

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that ended, in the order of their beginnings."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: (span.start_time, span.parent is not None))

    @property
    def chats(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name.startswith("chat ")]

    def points(self, name: str) -> list[Any]:
        """The data points of a histogram."""
        data = self._metrics.get_metrics_data()
        every = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return [point for metric in every if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def collected() -> Collected:
    return Collected()


@pytest.fixture
def open_watched(open_ledger: Callable[..., Ledger], collected: Collected, simulator: Any) -> Callable[..., Ledger]:
    def open_one(text: bool = False, **settings: Any) -> Ledger:
        ledger = open_ledger(**settings)
        ledger.journal.watch.observers += (
            Telemetry(
                endpoint=simulator.base_url,
                agent="John",
                text=text,
                tracer_provider=collected.tracers,
                meter_provider=collected.meters,
            ),
        )
        return ledger

    return open_one


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class TestSpans:
    def test_a_run_is_a_span_below_that_of_its_exchange(
        self, open_watched: Callable[..., Ledger], collected: Collected, simulator: Any
    ) -> None:
        answer = open_watched(**ONE).conversation("customer-42").ask("Where is my parcel?")
        exchange, run = collected.spans
        assert (exchange.name, exchange.kind, exchange.parent) == ("invoke_agent John", SpanKind.INTERNAL, None)
        assert (run.name, run.kind) == ("chat gpt-5.5", SpanKind.CLIENT)
        assert run.parent == exchange.context
        assert attributes(exchange) == {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": "openai",
            "gen_ai.conversation.id": "customer-42",
            "gen_ai.agent.name": "John",
            "threadledger.exchange.id": answer.exchange_id,
        }
        found = attributes(run)
        assert found.pop("gen_ai.response.id").startswith("chatcmpl-")
        assert found.pop("threadledger.request_id").startswith("req_")
        assert found == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.conversation.id": "customer-42",
            "gen_ai.request.model": "gpt-5.5",
            "gen_ai.response.model": "gpt-5.5",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": answer.usage.input_tokens,
            "gen_ai.usage.output_tokens": answer.usage.output_tokens,
            "server.address": "127.0.0.1",
            "server.port": int(simulator.base_url.split(":")[2].split("/")[0]),
            "threadledger.run.id": answer.run_id,
            "threadledger.exchange.id": answer.exchange_id,
            "threadledger.backend": "chat",
            "threadledger.attempt": 1,
        }
        assert (run.status.status_code, exchange.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)

    def test_a_span_has_the_times_of_the_events(
        self, open_watched: Callable[..., Ledger], collected: Collected
    ) -> None:
        ledger = open_watched(**ONE)
        ledger.conversation("k").ask("hello")
        times = [event.event.timestamp for event in ledger.events(types=["RunStarted", "RunCompleted"])]
        (run,) = collected.chats
        assert [run.start_time, run.end_time] == [round(at.timestamp() * 1e6) * 1_000 for at in times]

    def test_a_failure_is_a_span_error_with_the_cause(
        self, open_watched: Callable[..., Ledger], collected: Collected, simulator: Any
    ) -> None:
        refusal = {"status": 429, "code": "rate_limit_exceeded", "type": "tokens", "message": "You said: hello"}
        simulator.add_fault(CHAT, refuse=refusal)
        with pytest.raises(AllBackendsFailed):
            open_watched(**ONE).conversation("k").ask("hello")
        exchange, run = collected.spans
        assert run.status.status_code is StatusCode.ERROR
        found = attributes(run)
        assert found["error.type"] == "rate_limited"
        assert found["threadledger.error.code"] == "rate_limit_exceeded"
        assert found["threadledger.error.type"] == "tokens"
        assert found["threadledger.http_status"] == 429
        assert (exchange.status.status_code, attributes(exchange)["error.type"]) == (StatusCode.ERROR, "abandoned")

    def test_a_fallback_is_linked_to_the_run_that_failed(
        self, open_watched: Callable[..., Ledger], collected: Collected, simulator: Any
    ) -> None:
        simulator.add_fault(RESPONSES, fail=True)
        open_watched(**TWO).conversation("k").ask("hello")
        exchange, failed, fallback = collected.spans
        assert [span.name for span in collected.chats] == ["chat gpt-5.5", "chat gpt-small"]
        (link,) = fallback.links
        assert link.context == failed.context
        assert dict(link.attributes or {}) == {"threadledger.link": "fallback"}
        assert list(failed.links) == []
        assert fallback.parent == failed.parent == exchange.context
        assert exchange.status.status_code is StatusCode.UNSET

    def test_a_retry_is_another_span_without_a_link(
        self, open_watched: Callable[..., Ledger], collected: Collected, simulator: Any
    ) -> None:
        simulator.add_fault(CHAT, refuse={"status": 503})
        open_watched(**ONE | {"retries": 1}).conversation("k").ask("hello")
        assert [attributes(span)["threadledger.attempt"] for span in collected.chats] == [1, 2]
        assert [list(span.links) for span in collected.chats] == [[], []]

    def test_whoever_asks_has_its_span_above_blocking_and_awaited(
        self, open_watched: Callable[..., Ledger], collected: Collected
    ) -> None:
        tracer, ledger = collected.tracers.get_tracer("app"), open_watched(**ONE)
        with tracer.start_as_current_span("request"):
            ledger.conversation("k").ask("hello")

        async def talk() -> None:
            async with AsyncLedger(ledger) as awaited:
                with tracer.start_as_current_span("request"):
                    await awaited.conversation("k").ask("hello")

        asyncio.run(talk())
        requests = [span.context for span in collected.spans if span.name == "request"]
        assert [span.parent for span in collected.spans if span.name.startswith("invoke")] == requests

    def test_an_apps_own_backend_goes_by_its_own_name(
        self, open_watched: Callable[..., Ledger], collected: Collected
    ) -> None:
        chat = open_watched(**ONE).conversation("k")
        chat.append("user", "hello")
        with chat.run(backend="my-llm", model="llama") as run:
            run.complete("Good morning.")
        (span,) = collected.chats
        assert span.name == "chat llama"
        assert attributes(span)["gen_ai.provider.name"] == "my-llm"
        assert "server.address" not in attributes(span)

    def test_a_run_that_another_process_began_has_its_span_once_it_is_closed(
        self, open_watched: Callable[..., Ledger], open_ledger: Callable[..., Ledger], collected: Collected
    ) -> None:
        plan = RunPlan("chat", "m", timeout_seconds=-3_600.0)
        open_ledger(**ONE).journal.commit("k", lambda it: it.start_run("x", plan), create=True)
        open_watched(**ONE).close_overdue_runs()
        (span,) = collected.spans
        assert (span.name, attributes(span)["error.type"]) == ("chat m", "interrupted")

    def test_tool_rounds_of_a_recorded_client_are_runs_of_one_exchange(
        self, open_watched: Callable[..., Ledger], collected: Collected, simulator: Any
    ) -> None:
        from openai import OpenAI

        simulator.answer({"tool_calls": [{"name": "weather", "arguments": {}}]}, "Rain.")
        client = OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0)
        with threadledger.record(client, open_watched(**ONE), "k") as recorded:
            messages: list[Any] = [{"role": "user", "content": "Rain?"}]
            called = recorded.chat.completions.create(model="m", messages=messages).choices[0].message
            result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "yes"}
            recorded.chat.completions.create(model="m", messages=[*messages, called.to_dict(), result])
        exchange, *runs = collected.spans
        assert [span.parent for span in runs] == [exchange.context, exchange.context]


class TestText:
    def words(self, collected: Collected) -> str:
        return json.dumps([span.to_json() for span in collected.spans])

    def test_nothing_that_was_said_is_in_a_span(
        self, open_watched: Callable[..., Ledger], collected: Collected, simulator: Any
    ) -> None:
        simulator.add_fault(RESPONSES, refuse={"status": 400, "message": "You said: the question's words"})
        simulator.answer("The answer's words.")
        open_watched(**TWO).conversation("k").ask("The question's words.")
        assert len(collected.spans) == 3
        assert "words" not in self.words(collected)

    def test_unless_it_is_asked_for(self, open_watched: Callable[..., Ledger], collected: Collected) -> None:
        open_watched(text=True, **ONE).conversation("k").ask("hello")
        found = attributes(collected.chats[0])
        assert json.loads(found["gen_ai.input.messages"]) == [
            {"role": "user", "parts": [{"type": "text", "content": "hello"}]}
        ]
        assert json.loads(found["gen_ai.output.messages"]) == [
            {"role": "assistant", "parts": [{"type": "text", "content": "You said: hello"}]}
        ]


class TestMetrics:
    def test_durations_by_model_and_cause(
        self, open_watched: Callable[..., Ledger], collected: Collected, simulator: Any
    ) -> None:
        simulator.add_fault(RESPONSES, fail=True)
        open_watched(**TWO).conversation("k").ask("hello")
        points = collected.points("gen_ai.client.operation.duration")
        told = {(p.attributes["gen_ai.request.model"], p.attributes.get("error.type")): p.count for p in points}
        assert told == {("gpt-5.5", "provider_error"): 1, ("gpt-small", None): 1}
        assert {p.explicit_bounds[:2] for p in points} == {(0.01, 0.02)}
        assert {p.attributes["gen_ai.operation.name"] for p in points} == {"chat"}

    def test_tokens_by_kind(self, open_watched: Callable[..., Ledger], collected: Collected) -> None:
        answer = open_watched(**ONE).conversation("k").ask("hello")
        points = collected.points("gen_ai.client.token.usage")
        told = {p.attributes["gen_ai.token.type"]: p.sum for p in points}
        assert told == {"input": answer.usage.input_tokens, "output": answer.usage.output_tokens}

    def test_no_measure_is_kept_by_conversation_or_run(
        self, open_watched: Callable[..., Ledger], collected: Collected
    ) -> None:
        ledger = open_watched(**ONE)
        for key in ("a", "b", "c"):
            ledger.conversation(key).ask("hello")
        assert [point.count for point in collected.points("gen_ai.client.operation.duration")] == [3]


class TestTheSetting:
    def open(self, db_url: str, simulator: Any, **settings: Any) -> Ledger:
        given = {"openai_api_key": "sk-test", "openai_base_url": simulator.base_url} | ONE | settings
        return threadledger.open(db_url, **given)

    def observers(self, ledger: Ledger) -> list[str]:
        return [type(each).__name__ for each in ledger.journal.watch.observers]

    def test_it_is_off_unless_it_is_asked_for(self, db_url: str, simulator: Any) -> None:
        with self.open(db_url, simulator) as ledger:
            assert self.observers(ledger) == ["RunLog"]
        with self.open(db_url, simulator, telemetry=True) as ledger:
            assert self.observers(ledger) == ["RunLog", "Telemetry"]
            assert ledger.conversation("k").ask("hello").text == "You said: hello"  # without an SDK: nothing happens

    def test_opentelemetry_is_not_loaded_unless_it_is_asked_for(self, db_url: str) -> None:
        script = "import sys, threadledger; threadledger.open(sys.argv[1]); print('opentelemetry' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script, db_url], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"

    def test_without_opentelemetry_the_setting_is_refused_in_one_sentence(
        self, db_url: str, simulator: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "threadledger.adapters.telemetry", raising=False)
        monkeypatch.setitem(sys.modules, "opentelemetry", None)
        with pytest.raises(InvalidSettings, match=r"pip install 'threadledger\[otel\]'"):
            self.open(db_url, simulator, telemetry=True)


@pytest.fixture(autouse=True)
def _shut_down(collected: Collected) -> Iterator[None]:
    yield
    collected.meters.shutdown()
    collected.tracers.shutdown()
