"""The contract of `Backend`, on every implementation: one answer or one `ProviderRefused` with the facts, asked once."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from threadledger.adapters.openai import (
    Assistants,
    AssistantsBackend,
    AssistantsThreads,
    ChatBackend,
    Client,
    ConversationThreads,
    ResponsesBackend,
)
from threadledger.domain import (
    BackendRequest,
    Cause,
    JournaledMessage,
    Memory,
    Profile,
    ProviderRefused,
    Role,
    advise,
    diagnose,
    text_message,
)
from threadledger.domain.limits import TOOL_ROUNDS_MAX

# The SDK warns at each call for assistants; that our own calls are quiet is proved in test_settings.py.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

RUNS, RUN = "POST /threads/{thread_id}/runs", "GET /threads/{thread_id}/runs/{run_id}"
RESPONSES, CHAT = "POST /responses", "POST /chat/completions"
ASKING = {"assistants": RUNS, "responses": RESPONSES, "stateless responses": RESPONSES, "chat": CHAT}
EVERY = pytest.mark.parametrize("kind", ASKING)
WEATHER = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]'
CALL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}


class Notebook:
    """Assistants made before, kept in memory."""

    def __init__(self):
        self.known = {}

    def get(self, endpoint, profile_hash):
        return self.known.get((endpoint, profile_hash))

    def put(self, endpoint, profile_hash, assistant_id):
        self.known[endpoint, profile_hash] = assistant_id

    def forget(self, assistant_id):
        self.known = {key: value for key, value in self.known.items() if value != assistant_id}


class Asked:
    """A backend on the simulator, and a request for it whose thread holds what it has to hold."""

    def __init__(self, simulator, kind, *, text="Where is my parcel?", key="sk-test", seconds=5.0, **given):
        self.simulator = simulator
        self.client = Client(api_key=key, base_url=given.pop("base_url", simulator.base_url), timeout_seconds=seconds)
        self.notebook = Notebook()
        assistants = Assistants(self.client, self.notebook, given.pop("pinned", None))
        self.backend = {
            "assistants": lambda: AssistantsBackend(self.client, assistants, lambda _: None),
            "responses": lambda: ResponsesBackend(self.client),
            "stateless responses": lambda: ResponsesBackend(self.client, in_conversations=False),
            "chat": lambda: ChatBackend(self.client),
        }[kind]()
        question = JournaledMessage(text_message("user", text), "m1", 2, datetime.now(UTC))
        memory = Memory((question,), 2)
        self.journaled = []
        request = BackendRequest(
            "k", "exchange", "run", "gpt-test", Profile(), memory, seconds, journal=self.journaled.extend
        )
        ours = Client(api_key="sk-test", base_url=simulator.base_url)
        if kind == "assistants":
            threads = AssistantsThreads(ours)
            request = replace(request, thread_id=threads.create("k"))
            threads.add(request.thread_id, threads.render(memory).items)
        if kind == "responses":
            threads = ConversationThreads(ours)
            request = replace(request, thread_id=threads.create("k"), unsent=threads.render(memory).items)
        ours.close()
        self.request = replace(request, **given)
        self.before = len(simulator.requests)

    def answer(self):
        return self.backend.answer(self.request)

    def refusal(self):
        with pytest.raises(ProviderRefused) as refused:
            self.answer()
        assert "sk-test" not in repr(refused.value.failure)
        return refused.value.failure

    def cause(self):
        return diagnose(self.refusal())

    def count(self, template):
        return sum(request.template == template for request in self.simulator.requests[self.before :])


@pytest.fixture
def asked(simulator):
    """Makes `Asked` on the simulator, and closes its connections."""
    made = []

    def make(kind, **given):
        made.append(Asked(simulator, kind, **given))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


# Answers


@EVERY
def test_a_question_is_answered_with_the_facts_of_the_run(asked, simulator, kind):
    simulator.answer("It is on its way.")
    one = asked(kind)
    completion = one.answer()
    assert [(m.role, m.text) for m in completion.messages] == [(Role.ASSISTANT, "It is on its way.")]
    assert completion.usage.output_tokens > 0
    assert completion.model == "gpt-test"
    assert completion.remote_run_id and completion.request_id
    assert one.count(ASKING[kind]) == 1
    assert completion.thread_id == (one.request.thread_id if kind in {"assistants", "responses"} else None)


@EVERY
def test_the_model_is_shown_the_question_and_the_instructions(asked, simulator, kind):
    one = asked(kind, text="Is it heavy?", profile=Profile(instructions="Answer like a pirate."))
    assert one.answer().messages[-1].text == "You said: Is it heavy?"
    bodies = [request.body for request in simulator.requests[one.before :]]
    assert any("Answer like a pirate." in str(body) for body in bodies)


def test_a_response_in_a_conversation_leaves_question_and_answer_there_once(asked, simulator):
    one = asked("responses")
    one.answer()
    said = [item["content"][0]["text"] for item in simulator.provider.items[one.request.thread_id]]
    assert said == ["Where is my parcel?", "You said: Where is my parcel?"]


def test_a_stateless_response_is_not_stored_by_the_provider(asked, simulator):
    asked("stateless responses").answer()
    assert simulator.provider.responses == {}


def test_half_a_character_from_the_provider_becomes_a_storable_one(asked, simulator):
    text = '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    simulator.add_fault(
        CHAT, reply={"text": text + '"message":{"role":"assistant","content":"half \\ud83d a face"}}]}'}
    )
    assert asked("chat").answer().messages[-1].text.encode()


# How it ends badly

FAILED = {
    "Sorry, something went wrong.": ({"fail": True}, Cause.PROVIDER_ERROR),
    "server_error with other words": ({"fail": {"code": "server_error", "message": "Oops"}}, Cause.PROVIDER_ERROR),
    "incomplete: content_filter": ({"incomplete": "content_filter"}, Cause.CONTENT_FILTERED),
}
FAILED_LATER = {
    "rate limited": ({"fail": {"code": "rate_limit_exceeded", "message": "Slow down"}}, Cause.RATE_LIMITED),
    "invalid_prompt": ({"fail": {"code": "invalid_prompt", "message": "No"}}, Cause.ASSISTANT_MISCONFIGURED),
    "cancelled": ({"end": "cancelled"}, Cause.CANCELLED),
}


@EVERY
@pytest.mark.parametrize(("fault", "cause"), FAILED.values(), ids=FAILED)
def test_a_failed_run_has_its_cause(asked, simulator, kind, fault, cause):
    simulator.add_fault(ASKING[kind], **fault)
    one = asked(kind)
    assert one.cause() is cause
    assert one.count(ASKING[kind]) == 1


@pytest.mark.parametrize("kind", ["assistants", "responses", "stateless responses"])
@pytest.mark.parametrize(("fault", "cause"), FAILED_LATER.values(), ids=FAILED_LATER)
def test_a_run_that_fails_with_http_200_has_its_cause(asked, simulator, kind, fault, cause):
    simulator.add_fault(ASKING[kind], **fault)
    failure = (one := asked(kind)).refusal()
    assert diagnose(failure) is cause
    assert failure.http_status is None
    assert failure.remote_run_id and failure.request_id
    assert failure.thread_id == one.request.thread_id


@pytest.mark.parametrize(
    ("kind", "fault", "cause"),
    [
        ("assistants", {"incomplete": "max_completion_tokens"}, Cause.INCOMPLETE),
        ("assistants", {"incomplete": "max_prompt_tokens"}, Cause.CONTEXT_TOO_LONG),
        ("assistants", {"end": "expired"}, Cause.EXPIRED),
        ("responses", {"incomplete": "max_output_tokens"}, Cause.INCOMPLETE),
        ("stateless responses", {"incomplete": "max_output_tokens"}, Cause.INCOMPLETE),
        ("chat", {"incomplete": "length"}, Cause.INCOMPLETE),
    ],
)
def test_an_end_that_is_this_apis_own_has_its_cause(asked, simulator, kind, fault, cause):
    simulator.add_fault(ASKING[kind], **fault)
    assert asked(kind).cause() is cause


@pytest.mark.parametrize("kind", ["responses", "stateless responses", "chat"])
def test_half_an_answer_is_kept_as_the_partial_text_of_the_failure(asked, simulator, kind):
    reason = "length" if kind == "chat" else "max_output_tokens"
    simulator.add_fault(ASKING[kind], incomplete=reason)
    assert "You said: Where is my parcel?".startswith(asked(kind).refusal().partial_text)


REFUSED = {
    "429": ({"status": 429, "code": "rate_limit_exceeded", "headers": {"retry-after": "7"}}, Cause.RATE_LIMITED),
    "no credit": ({"status": 429, "code": "insufficient_quota"}, Cause.QUOTA_EXHAUSTED),
    "500": ({"status": 500, "message": "The server had an error"}, Cause.PROVIDER_ERROR),
    "503": ({"status": 503}, Cause.PROVIDER_ERROR),
    "403": ({"status": 403, "message": "Project does not have access"}, Cause.PERMISSION),
    "model": ({"status": 404, "code": "model_not_found", "message": "The model `x` does not exist"}, Cause.MODEL_UNAVAILABLE),
    "too long": ({"status": 400, "code": "context_length_exceeded", "param": "input"}, Cause.CONTEXT_TOO_LONG),
    "gateway": ({"status": 504}, Cause.TIMED_OUT),
}  # fmt: skip


@EVERY
@pytest.mark.parametrize(("refusal", "cause"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_has_its_cause_and_its_facts_and_is_not_asked_again(asked, simulator, kind, refusal, cause):
    simulator.add_fault(ASKING[kind], refuse=refusal, times=None)
    one = asked(kind)
    failure = one.refusal()
    assert diagnose(failure) is cause
    assert (failure.http_status, failure.code) == (refusal["status"], refusal.get("code"))
    assert failure.message == refusal.get("message", "The simulator was told to refuse this.")
    assert failure.request_id
    assert failure.retry_after_seconds == (7.0 if "headers" in refusal else None)
    assert one.count(ASKING[kind]) == 1


@EVERY
def test_a_wrong_key_is_authentication_and_shows_nowhere(asked, kind):
    from threadledger.adapters import Simulator

    with Simulator(seed=7, api_key="sk-test") as strict:
        one = Asked(strict, kind, key="sk-wrong-key-0123456789")
        failure = one.refusal()
        one.client.close()
    assert diagnose(failure) is Cause.AUTHENTICATION
    assert "0123456789" not in repr(failure)
    assert "OPENAI_API_KEY" in advise(Cause.AUTHENTICATION)


@EVERY
def test_no_key_at_all_is_authentication(asked, kind):
    one = asked(kind, key=None)
    assert one.cause() is Cause.AUTHENTICATION
    assert one.simulator.requests[one.before :] == []


@EVERY
def test_an_answer_that_does_not_come_in_time_is_timed_out_and_not_asked_again(asked, simulator, kind):
    one = asked(kind, seconds=0.2)
    simulator.add_fault(ASKING[kind], hang=30.0, times=None)
    assert one.cause() is Cause.TIMED_OUT
    assert simulator.provider.faults.states[0].seen == 1


def test_a_run_that_goes_on_for_too_long_is_timed_out_and_its_thread_can_be_written_to_again(asked, simulator):
    one = asked("assistants", timeout_seconds=0.0)
    assert one.cause() is Cause.TIMED_OUT
    threads = AssistantsThreads(one.client)
    threads.add(one.request.thread_id, threads.render(one.request.memory).items)
    assert len(threads.read(one.request.thread_id)) == 2


@EVERY
def test_a_dropped_connection_is_network(asked, simulator, kind):
    simulator.add_fault(ASKING[kind], drop=True, times=None)
    one = asked(kind)
    assert one.cause() is Cause.NETWORK
    assert one.count(ASKING[kind]) == 1


@EVERY
def test_nobody_listening_is_network(asked, kind):
    one = asked(kind, base_url="http://127.0.0.1:9/v1")
    assert one.cause() is Cause.NETWORK


HTML = {"text": "<html><body>Please log in to the Wi-Fi</body></html>", "content_type": "text/html"}
NOT_AN_ANSWER = {
    "a proxy's page": HTML,
    "broken JSON": {"text": '{"id": "x", "status": "compl'},
    "an empty body": {"text": " "},
    "an empty object": {"text": "{}"},
    "null": {"text": "null"},
    "a list": {"text": "[]"},
    "a number": {"text": "42"},
    "an object of another kind": {"text": '{"object": "list", "data": []}'},
    "an answer with nothing in it": {"text": '{"id": "x", "status": "completed", "choices": []}'},
}


@EVERY
@pytest.mark.parametrize("reply", NOT_AN_ANSWER.values(), ids=NOT_AN_ANSWER)
def test_a_reply_that_is_no_answer_is_an_error_of_the_provider(asked, simulator, kind, reply):
    simulator.add_fault(ASKING[kind], reply=reply)
    # A run that says it is complete, in a thread without an answer, is an answer cut off.
    expected = {Cause.PROVIDER_ERROR, Cause.INCOMPLETE} if kind == "assistants" else {Cause.PROVIDER_ERROR}
    assert asked(kind).cause() in expected


@pytest.mark.parametrize("reply", NOT_AN_ANSWER.values(), ids=NOT_AN_ANSWER)
@pytest.mark.parametrize("place", [RUN, "GET /threads/{thread_id}/messages"])
def test_replies_that_are_no_answer_while_a_run_is_followed_are_an_error_of_the_provider(
    asked, simulator, place, reply
):
    simulator.add_fault(place, reply=reply, times=None)
    assert asked("assistants").cause() in {Cause.PROVIDER_ERROR, Cause.INCOMPLETE}


def test_one_look_at_a_run_that_goes_wrong_does_not_lose_the_run(asked, simulator):
    simulator.add_fault(RUN, drop=True)
    simulator.answer("It is on its way.")
    one = asked("assistants")
    assert one.answer().messages[-1].text == "It is on its way."
    assert one.count(RUNS) == 1


# What is not there


@EVERY
def test_an_api_that_was_shut_down_is_provider_gone(asked, simulator, kind):
    one = asked(kind)
    simulator.retire(kind.split()[-1])
    assert one.cause() is Cause.PROVIDER_GONE


@pytest.mark.parametrize("kind", ["assistants", "responses"])
def test_a_thread_that_is_gone_is_thread_missing(asked, simulator, kind):
    one = asked(kind)
    simulator.lose(one.request.thread_id)
    failure = one.refusal()
    assert diagnose(failure) is Cause.THREAD_MISSING
    assert failure.thread_id == one.request.thread_id


def test_a_pinned_assistant_that_is_not_there_is_assistant_missing(asked):
    one = asked("assistants", pinned="asst_nobody")
    assert one.cause() is Cause.ASSISTANT_MISSING
    assert "OPENAI_ASSISTANT_ID" in advise(Cause.ASSISTANT_MISSING)


def test_an_assistant_of_ours_that_is_gone_is_made_anew_by_the_next_run(asked, simulator):
    one = asked("assistants")
    one.answer()
    simulator.lose(next(iter(simulator.provider.assistants)))
    assert one.cause() is Cause.ASSISTANT_MISSING
    assert one.answer().messages
    assert len(simulator.provider.assistants) == 1


def test_an_assistant_of_ours_is_found_again_by_a_ledger_that_does_not_remember_it(asked, simulator):
    asked("assistants").answer()
    asked("assistants").answer()
    assert len(simulator.provider.assistants) == 1
    asked("assistants", profile=Profile(instructions="Other.")).answer()
    assert len(simulator.provider.assistants) == 2


@EVERY
def test_a_retired_model_is_model_unavailable(asked, simulator, kind):
    simulator.retire_model("gpt-test")
    assert asked(kind).cause() is Cause.MODEL_UNAVAILABLE


def test_a_busy_thread_is_thread_busy(asked, simulator):
    one = asked("assistants")
    assistant = one.client.sdk.beta.assistants.create(model="m")
    one.client.sdk.beta.threads.runs.create(one.request.thread_id, assistant_id=assistant.id)
    assert one.cause() is Cause.THREAD_BUSY


# Preflight

PREFLIGHT = {
    "nothing to answer": ({"memory": Memory()}, Cause.EMPTY_MEMORY),
    "instructions over the limit": ({"profile": Profile(instructions="x" * 256_001)}, Cause.INSTRUCTIONS_TOO_LONG),
    "129 tools": ({"profile": Profile(tools_json="[" + ",".join([WEATHER[1:-1]] * 129) + "]")}, Cause.TOO_MANY_TOOLS),
    "a tool nobody knows": ({"profile": Profile(tools_json='[{"type": "web_open"}]')}, Cause.TOOL_NOT_SUPPORTED),
}


@EVERY
@pytest.mark.parametrize(("given", "cause"), PREFLIGHT.values(), ids=PREFLIGHT)
def test_what_the_provider_would_refuse_is_named_before_it_is_asked(asked, kind, given, cause):
    one = asked(kind, **given)
    failure = one.backend.preflight(one.request)
    if kind != "assistants" and cause in {Cause.INSTRUCTIONS_TOO_LONG, Cause.TOO_MANY_TOOLS}:
        assert failure is None  # a limit of assistants, not of what stands in for them
    else:
        assert (failure.status, diagnose(failure)) == ("refused", cause)
    assert one.simulator.requests[one.before :] == []


@EVERY
def test_a_request_that_can_be_made_passes_preflight(asked, kind):
    one = asked(kind, profile=Profile(instructions="x" * 256_000, tools_json=WEATHER))
    assert one.backend.preflight(one.request) is None


def test_what_only_assistants_do_not_take_is_refused_for_assistants_alone(asked):
    profile = Profile(tools_json='[{"type": "web_search"}]')
    refused = {kind: asked(kind, profile=profile) for kind in ("assistants", "responses")}
    assert {kind: one.backend.preflight(one.request) is not None for kind, one in refused.items()} == {
        "assistants": True,
        "responses": False,
    }


# Tools


def tooled(asked, kind, function, **given):
    return asked(kind, profile=Profile(tools_json=WEATHER), tools={"weather": function} if function else {}, **given)


@EVERY
def test_a_tool_call_is_journaled_and_answered_by_the_bound_function(asked, simulator, kind):
    simulator.answer(CALL, "Take an umbrella.")
    seen = []
    one = tooled(asked, kind, lambda city: seen.append((city, [m.role for m in one.journaled])) or {"rain": True})
    completion = one.answer()
    assert completion.messages[-1].text == "Take an umbrella."
    assert seen == [("Bern", [Role.ASSISTANT])], "the wish is journaled before the function runs"
    wish, result = one.journaled
    assert (wish.tool_calls[0].name, wish.tool_calls[0].arguments) == ("weather", '{"city": "Bern"}')
    assert (result.role, result.text, result.tool_call_id) == (Role.TOOL, '{"rain": true}', wish.tool_calls[0].id)
    assert any('{"rain": true}' in str(r.body).replace('\\"', '"') for r in simulator.requests[one.before :])


@EVERY
def test_several_calls_and_several_rounds_are_answered_each_once(asked, simulator, kind):
    simulator.answer({"tool_calls": [*CALL["tool_calls"], *CALL["tool_calls"]]}, CALL, "Done.")
    cities = []
    one = tooled(asked, kind, lambda city: cities.append(city) or "sun")
    assert one.answer().messages[-1].text == "Done."
    assert cities == ["Bern"] * 3
    assert [m.role.value for m in one.journaled] == ["assistant", "tool", "tool", "assistant", "tool"]


@EVERY
def test_a_tool_that_raises_becomes_a_result_the_model_sees(asked, simulator, kind):
    simulator.answer(CALL, "I could not look.")

    def weather(city):
        raise OSError("no route with key sk-abcdefgh12345678")

    one = tooled(asked, kind, weather)
    assert one.answer().messages[-1].text == "I could not look."
    assert one.journaled[1].text.startswith("[the tool failed: OSError: no route")
    assert "abcdefgh" not in one.journaled[1].text


@EVERY
@pytest.mark.parametrize("arguments", ["not json", "[1]", '{"town": 1}', "null", ""])
def test_arguments_that_the_function_cannot_take_become_a_result_the_model_sees(asked, simulator, kind, arguments):
    simulator.answer({"tool_calls": [{"name": "weather", "arguments": arguments}]}, "Sorry.")
    one = tooled(asked, kind, lambda city: "sun")
    assert one.answer().messages[-1].text == "Sorry."
    assert one.journaled[1].text.startswith("[the tool failed: ")


@EVERY
def test_a_tool_that_is_not_bound_is_tool_failed_and_its_call_is_answered_in_the_journal(asked, simulator, kind):
    simulator.answer(CALL)
    one = tooled(asked, kind, None)
    failure = one.refusal()
    assert diagnose(failure) is Cause.TOOL_FAILED
    assert "'weather'" in failure.message
    assert [message.role.value for message in one.journaled] == ["assistant", "tool"]
    assert one.journaled[1].text == "[the tool failed: no function is bound to 'weather']"


def test_a_thread_in_which_a_tool_was_not_bound_can_be_gone_on_with(asked, simulator):
    simulator.answer(CALL)
    one = tooled(asked, "assistants", None)
    one.refusal()
    threads = AssistantsThreads(one.client)
    more = threads.render(Memory((JournaledMessage(text_message("user", "And now?"), "m2", 5, datetime.now(UTC)),), 5))
    threads.add(one.request.thread_id, more.items)
    assert one.answer().messages[-1].text == "You said: And now?"


@EVERY
def test_a_model_that_never_stops_asking_for_tools_is_stopped(asked, simulator, kind):
    simulator.answer(*[CALL] * (TOOL_ROUNDS_MAX + 5))
    calls = []
    one = tooled(asked, kind, lambda city: calls.append(city) or "sun")
    assert one.cause() is Cause.TOOL_FAILED
    assert len(calls) == TOOL_ROUNDS_MAX
