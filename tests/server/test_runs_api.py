"""Runs through the provider's SDK: a run is an exchange, with retries, fallbacks and the audit of any other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import openai
import pytest
from freezegun import freeze_time
from openai import OpenAI

from threadledger.adapters.server import ServeSettings
from threadledger.domain.conversation import events as e
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger

from .assistant_app import CALL, App
from .chat_only import ChatOnly
from .speaking import SECONDS_MAX, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API


def events_of(ledger: Ledger, app: App, kind: type[e.Event]) -> list[Any]:
    return [each for each in ledger.conversation(app.thread.id).events() if isinstance(each, kind)]


def test_a_run_answers_the_thread(app: App, ledger: Ledger) -> None:
    run = app.run(metadata={"desk": "7"})
    assert (run.status, run.metadata, run.assistant_id) == ("completed", {"desk": "7"}, app.assistant.id)
    assert app.said == ["Hello", "You said: Hello"]
    assert run.usage.total_tokens > 0
    [message] = app.messages.list(app.thread.id, run_id=run.id).data
    assert (message.run_id, message.assistant_id) == (run.id, app.assistant.id)
    assert app.again(run) == run
    assert list(ledger.check()) == []
    kinds = [type(each).__name__ for each in ledger.conversation(app.thread.id).events()]
    expected = ["ConversationStarted", "MessageJournaled", "ExchangeRequested", "RunStarted", "RunCompleted"]
    assert kinds == [*expected, "MessageJournaled"]


def test_the_instructions_model_and_sampling_of_a_run_are_sent(app: App, simulator: Any) -> None:
    app.run(
        instructions="Be brief.",
        additional_instructions="Say please.",
        additional_messages=[{"role": "user", "content": "And now?"}],
        model="gpt-5.5-mini",
        temperature=0.5,
        max_completion_tokens=300,
        tools=[],
    )
    sent = simulator.requests[-1].body
    assert sent["messages"][0] == {"role": "system", "content": "Be brief.\nSay please."}
    assert [each["content"] for each in sent["messages"][1:]] == ["Hello", "And now?"]
    assert (sent["model"], sent["temperature"], sent["max_completion_tokens"]) == ("gpt-5.5-mini", 0.5, 300)
    assert app.said == ["Hello", "And now?", "You said: And now?"]


def test_truncation_sends_the_last_messages(app: App, simulator: Any) -> None:
    for text in ("one", "two", "three"):
        app.messages.create(app.thread.id, role="user", content=text)
    run = app.run(truncation_strategy={"type": "last_messages", "last_messages": 2})
    assert [each["content"] for each in simulator.requests[-1].body["messages"]] == ["two", "three"]
    assert run.truncation_strategy.last_messages == 2


def test_a_run_waits_for_the_results_of_functions_and_continues(app: App, simulator: Any, ledger: Ledger) -> None:
    simulator.answer(CALL, "It is sunny.")
    run = app.run()
    assert run.status == "requires_action"
    assert run.required_action.submit_tool_outputs.tool_calls[0].function.name == "weather"
    assert [each.key for each in ledger.conversations(pending=True)] == [app.thread.id]
    done = app.give(run)
    assert (done.status, done.id, done.required_action) == ("completed", run.id, None)
    assert app.said == ["Hello", "It is sunny."]
    steps = app.runs.steps.list(run.id, thread_id=app.thread.id, order="asc").data
    assert [(each.type, each.status) for each in steps] == [
        ("tool_calls", "completed"),
        ("message_creation", "completed"),
    ]
    assert steps[0].step_details.tool_calls[0].function.output == "sunny"  # type: ignore[union-attr] # of the kind that the run has
    assert app.runs.steps.retrieve(steps[0].id, thread_id=app.thread.id, run_id=run.id) == steps[0]
    assert ledger.conversations(pending=True) == []
    assert list(ledger.check()) == []


def test_results_of_other_calls_or_for_an_ended_run_are_refused(app: App, simulator: Any) -> None:
    simulator.answer(CALL, "It is sunny.")
    run = app.run()
    with pytest.raises(openai.BadRequestError, match="Expected tool outputs for call_ids"):
        app.runs.submit_tool_outputs(
            run.id, thread_id=app.thread.id, tool_outputs=[{"tool_call_id": "x", "output": ""}]
        )
    app.give(run)
    with pytest.raises(openai.BadRequestError, match='Runs in status "completed" do not accept tool outputs'):
        app.runs.submit_tool_outputs(
            run.id, thread_id=app.thread.id, tool_outputs=[{"tool_call_id": "x", "output": ""}]
        )


def test_nothing_else_happens_in_a_thread_while_a_run_is_active(app: App, simulator: Any) -> None:
    simulator.answer(CALL)
    run = app.run()
    with pytest.raises(openai.BadRequestError, match=f"Can't add messages to {app.thread.id} while a run {run.id}"):
        app.messages.create(app.thread.id, role="user", content="And?")
    with pytest.raises(openai.BadRequestError, match=f"Thread {app.thread.id} already has an active run {run.id}."):
        app.runs.create(thread_id=app.thread.id, assistant_id=app.assistant.id)
    assert app.said == ["Hello"]


def test_a_cancelled_run_never_changes_and_frees_the_thread(app: App, simulator: Any, ledger: Ledger) -> None:
    simulator.answer(CALL)
    run = app.run()
    cancelled = app.runs.cancel(run.id, thread_id=app.thread.id)
    assert (cancelled.status, cancelled.cancelled_at is not None) == ("cancelled", True)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel run with status 'cancelled'"):
        app.runs.cancel(run.id, thread_id=app.thread.id)
    assert app.run().status == "completed"
    assert app.again(run) == cancelled
    assert ledger.state(app.thread.id).unanswered == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_run_waits_no_longer_for_a_silent_provider(
    open_api: Callable[..., Any], upstream: ChatOnly, stream: bool
) -> None:
    server = open_api()
    said: list[Any] = []
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client, upstream.held():
        app = App(client)
        events: Any = app.runs.create(thread_id=app.thread.id, assistant_id=app.assistant.id, stream=stream)
        listening = threading.Thread(target=lambda: said.extend(each.event for each in (events if stream else ())))
        listening.start()
        upstream.wait_for(1)
        [run] = app.runs.list(app.thread.id).data
        assert app.runs.cancel(run.id, thread_id=app.thread.id).status == "cancelled"
        until(lambda: not server.served.runner._running)
        listening.join(SECONDS_MAX)
        assert not stream or said[-1] == "thread.run.cancelled"
        app.runs.create(thread_id=app.thread.id, assistant_id=app.assistant.id)


def test_the_messages_of_a_run_are_those_of_the_thread_that_name_it(app: App, simulator: Any, ledger: Ledger) -> None:
    simulator.answer(CALL, "It is sunny.")
    app.give(app.run())
    simulator.add_fault("POST /chat/completions", refuse={"status": 500, "message": "Sorry"}, times=1)
    assert app.run(additional_messages=[{"role": "user", "content": "And?"}]).status == "failed"
    ledger.replay.plan_rerun(failed=True).apply()
    deleted = app.run(additional_messages=[{"role": "user", "content": "What?"}])
    app.messages.delete(app.messages.list(app.thread.id, limit=1).data[0].id, thread_id=app.thread.id)
    left = app.run(additional_messages=[{"role": "user", "content": "Who?"}])
    ledger.conversation(app.thread.id).regenerate()
    shown = app.messages.list(app.thread.id, order="asc").data
    names = [each.run_id for each in shown if each.run_id is not None]
    assert len(names) == 3
    assert not {deleted.id, left.id} & set(names)
    for run_id in {*names, deleted.id, left.id}:
        own = [each for each in shown if each.run_id == run_id]
        assert app.messages.list(app.thread.id, run_id=run_id, order="asc").data == own
        assert app.messages.list(app.thread.id, run_id=run_id).data == own[::-1]
    assert app.messages.list(app.thread.id, run_id="run_none").data == []


def test_a_failed_run_says_why_with_our_cause_and_run_id(app: App, simulator: Any, ledger: Ledger) -> None:
    refusal = {"status": 429, "code": "insufficient_quota", "message": "You exceeded your current quota."}
    simulator.add_fault("POST /chat/completions", refuse=refusal, times=9)
    run = app.run()
    [failure] = ledger.failures()
    assert run.status == "failed"
    assert run.last_error.code == "rate_limit_exceeded"
    said = f"You exceeded your current quota. (HTTP 429, code insufficient_quota, cause quota_exhausted, run {failure.run_id})"
    assert run.last_error.message == said
    assert ledger.state(app.thread.id).unanswered == 1
    assert app.run(additional_messages=[{"role": "user", "content": "x"}]).status == "failed"
    assert app.again(run).last_error.message == said


def test_a_rerun_is_a_run_of_its_own(app: App, simulator: Any, ledger: Ledger) -> None:
    simulator.add_fault("POST /chat/completions", refuse={"status": 500, "message": "Sorry"}, times=1)
    run = app.run()
    assert run.status == "failed"
    ledger.replay.plan_rerun(failed=True).apply()
    assert app.said == ["Hello", "You said: Hello"]
    assert app.again(run).model_dump() == run.model_dump()
    [message] = [each for each in app.messages.list(app.thread.id).data if each.role == "assistant"]
    assert message.run_id != run.id
    rerun = app.runs.retrieve(str(message.run_id), thread_id=app.thread.id)
    assert (rerun.status, rerun.id) == ("completed", message.run_id)


def test_a_run_falls_back_to_the_next_backend_of_its_route(
    serving: Callable[..., Any], simulator: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    config = tmp_path / "threadledger.toml"
    config.write_text('[serve.models]\n"gpt-4o" = ["responses:dead", "chat:gpt-5.5"]\n', encoding="utf-8")
    simulator.retire_model("dead")
    server = serving(backends=("responses", "chat"), config=config, stateless=True)
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        app = App(client)
        run = app.run(model="gpt-4o")
        assert (run.status, run.model) == ("completed", "gpt-5.5")
        assert next(each.id for each in client.models.list().data) == "gpt-4o"
    ledger = server.served.ledger
    assert [(each.cause, each.next) for each in ledger.failures()] == [("model_unavailable", "fallback")]


def test_runs_are_listed_in_pages(app: App) -> None:
    ids = [app.run().id for _ in range(4)]

    def listed(**query: Any) -> list[str]:
        return [each.id for each in app.runs.list(app.thread.id, **query).data]

    assert listed() == ids[::-1]
    assert listed(limit=2) == [ids[3], ids[2]]
    assert listed(limit=2, after=ids[2]) == [ids[1], ids[0]]
    assert listed(order="asc", limit=2, after=ids[0]) == [ids[1], ids[2]]
    assert listed(limit=2, before=ids[0]) == [ids[2], ids[1]]
    assert app.runs.list(app.thread.id, limit=4).has_more is False


def test_metadata_of_a_run_is_replaced_also_after_its_end(app: App) -> None:
    run = app.run(metadata={"a": "1"})
    assert app.runs.update(run.id, thread_id=app.thread.id, metadata={"b": "2"}).metadata == {"b": "2"}
    assert app.again(run).metadata == {"b": "2"}


def test_a_question_of_the_app_itself_is_shown_as_a_run(app: App, ledger: Ledger) -> None:
    answer = ledger.conversation(app.thread.id).ask("And from here?")
    [run] = app.runs.list(app.thread.id).data
    assert (run.status, run.id) == ("completed", f"run_{answer.exchange_id.replace('-', '')}")


def test_an_empty_thread_fails_with_a_named_cause(app: App, client: OpenAI) -> None:
    app.thread = client.beta.threads.create()
    run = app.run()
    assert (run.status, run.last_error.code) == ("failed", "invalid_prompt")
    assert "empty_memory" in run.last_error.message


def test_a_waiting_run_expires_after_ten_minutes(app: App, simulator: Any, ledger: Ledger) -> None:
    simulator.answer(CALL)
    run = app.run()
    assert run.expires_at - run.created_at == 600
    with freeze_time(now() + timedelta(minutes=10, seconds=1), tick=True, real_asyncio=True):
        expired = app.again(run)
        assert (expired.status, expired.expires_at) == ("expired", run.expires_at)
        assert [each.cause for each in ledger.failures()] == ["expired"]
        assert app.run(additional_messages=[{"role": "user", "content": "again"}]).status == "completed"
    assert app.again(run).status == "expired"


def test_an_answer_that_is_cut_off_leaves_an_incomplete_run(app: App, simulator: Any) -> None:
    simulator.add_fault("POST /chat/completions", incomplete="max_output_tokens")
    run = app.run()
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_completion_tokens")


def test_unknown_runs_steps_and_assistants_are_404s(app: App) -> None:
    run = app.run()
    with pytest.raises(openai.NotFoundError, match="No run found with id 'run_none'"):
        app.runs.retrieve("run_none", thread_id=app.thread.id)
    with pytest.raises(openai.NotFoundError, match="No run found"):
        app.runs.retrieve("run_" + "0" * 32, thread_id=app.thread.id)
    with pytest.raises(openai.NotFoundError, match="No run step found"):
        app.runs.steps.retrieve("step_none", thread_id=app.thread.id, run_id=run.id)
    with pytest.raises(openai.NotFoundError, match="No assistant found with id 'asst_none'"):
        app.runs.create(thread_id=app.thread.id, assistant_id="asst_none")


def test_a_hosted_tool_of_a_run_is_dropped_and_recorded_if_the_settings_say_so(serving: Callable[..., Any]) -> None:
    server = serving(serve=ServeSettings(hosted_tools="drop"))
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        app = App(client)
        run = app.run(tools=[{"type": "code_interpreter"}])
        assert (run.status, run.tools) == ("completed", [])
        [requested] = events_of(server.served.ledger, app, e.ExchangeRequested)
        assert requested.request["dropped"] == ["code_interpreter"]
        [started] = events_of(server.served.ledger, app, e.RunStarted)
        assert started.losses == {"tool:code_interpreter": 1}


def test_a_hosted_tool_of_a_run_is_refused_by_name(app: App) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        app.runs.create(thread_id=app.thread.id, assistant_id=app.assistant.id, tools=[{"type": "code_interpreter"}])
    assert (refused.value.code, refused.value.param) == ("unsupported_tool", "tools[0].type")


def test_a_thread_and_its_run_are_created_together(app: App, client: OpenAI) -> None:
    run = client.beta.threads.create_and_run_poll(
        assistant_id=app.assistant.id,
        thread={"messages": [{"role": "user", "content": "Hi"}], "metadata": {"a": "1"}},
        poll_interval_ms=10,
    )
    assert run.status == "completed"
    assert client.beta.threads.retrieve(run.thread_id).metadata == {"a": "1"}
    said = client.beta.threads.messages.list(run.thread_id, order="asc").data
    assert [each.role for each in said] == ["user", "assistant"]


def test_a_poll_that_waits_for_a_run_whose_thread_is_deleted_is_404(
    open_api: Callable[..., Any], upstream: ChatOnly
) -> None:
    server = open_api()
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client, upstream.held():
        app = App(client)
        run = app.runs.create(app.thread.id, assistant_id=app.assistant.id)
        upstream.wait_for(1)
        [live] = server.served.runner._live.values()
        with ThreadPoolExecutor(1) as pool:
            waiting = threading.Event()
            wait, live.wait = live.wait, lambda seconds: (waiting.set(), wait(seconds))
            polled = pool.submit(app.runs.poll, run.id, app.thread.id)
            assert waiting.wait(SECONDS_MAX)
            client.beta.threads.delete(app.thread.id)
            with pytest.raises(openai.NotFoundError):
                polled.result()
