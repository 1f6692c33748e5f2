"""The contract of `Backend`, on every implementation, with both drivers, listened to and not: one answer or one
`ProviderRefused` with the facts, asked once."""

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
from threadledger.domain import limits
from threadledger.domain.conversation import Profile, text_message
from threadledger.domain.conversation.messages import JournaledMessage, Role
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest, Delta, ToolUse
from threadledger.domain.failures import Cause, advise, diagnose
from threadledger.domain.memory import Memory
from threadledger.domain.threads import ThreadItem

from .performing import DRIVERS

FOREIGN_POLL_SECONDS = 1.0
"""What a backend waits between two looks at a run that is not ours."""

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

    def __init__(self, simulator, performing, kind, *, text="Where is my parcel?", key="sk-test", seconds=5.0, **given):
        self.simulator, self.performing = simulator, performing
        base_url = given.pop("base_url", simulator.base_url)
        self.client = performing.closing(Client(api_key=key, base_url=base_url, timeout_seconds=seconds))
        self.notebook = Notebook()
        assistants = Assistants(self.client, self.notebook, given.pop("pinned", None))
        self.backend = {
            "assistants": lambda: AssistantsBackend(self.client, assistants),
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
        ours = performing.closing(Client(api_key="sk-test", base_url=simulator.base_url))
        if kind == "assistants":
            threads = performing.of(AssistantsThreads(ours))
            request = replace(request, thread_id=threads.create("k"))
            threads.add(request.thread_id, threads.render(memory).items)
        if kind == "responses":
            threads = performing.of(ConversationThreads(ours))
            request = replace(request, thread_id=threads.create("k"), unsent=threads.render(memory).items)
        self.request = replace(request, **given)
        self.before = len(simulator.requests)

    def answer(self):
        return self.performing(self.backend.answer(self.request))

    def refusal(self):
        with pytest.raises(ProviderRefused) as refused:
            self.answer()
        assert "sk-test" not in repr(refused.value.failure)
        return refused.value.failure

    def cause(self):
        return diagnose(self.refusal())

    @property
    def told(self):
        """What was told of each message of the run, the pieces joined."""
        pieces = [part for part in self.performing.told if isinstance(part, Delta)]
        assert all(piece.text for piece in pieces), "nothing is told where nothing was said"
        numbers = dict.fromkeys(piece.message for piece in pieces)
        return ["".join(piece.text for piece in pieces if piece.message == number) for number in numbers]

    def count(self, template):
        return sum(request.template == template for request in self.simulator.requests[self.before :])


WAYS = [f"{driver}{stream}" for driver in DRIVERS for stream in ("", ", streamed")]
STREAMED = pytest.mark.parametrize("way", [way for way in WAYS if "streamed" in way], indirect=True)
NOT_STREAMED = pytest.mark.parametrize("way", [way for way in WAYS if "streamed" not in way], indirect=True)
UNASKED = pytest.mark.parametrize("way", WAYS[:1], indirect=True)
CROSSWISE = pytest.mark.parametrize("way", [WAYS[0], WAYS[-1]], indirect=True)
"""For long tables: each driver and each kind of answer once."""


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def stream(way):
    return "streamed" in way


@pytest.fixture
def performing(way):
    with DRIVERS[way.split(",")[0]]() as driver:
        yield driver


@pytest.fixture
def asked(simulator, performing, stream):
    """Makes `Asked` on the simulator."""
    return lambda kind, **given: Asked(simulator, performing, kind, **({"stream": stream} | given))


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


def test_half_a_character_from_the_provider_becomes_a_storable_one(asked, simulator, stream):
    said = '"role":"assistant","content":"half \\ud83d a face"'
    choice = f'{{"index":0,"finish_reason":"stop","{"delta" if stream else "message"}":{{{said}}}}}'
    text = f'{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{choice}]}}'
    reply = {"text": f"data: {text}\n\n", "content_type": "text/event-stream"} if stream else {"text": text}
    simulator.add_fault(CHAT, reply=reply)
    assert asked("chat").answer().messages[-1].text.encode()


# As it comes


@EVERY
@STREAMED
def test_what_is_told_joined_is_the_answer(asked, simulator, kind):
    simulator.answer("It is on its way to Bern, 語 and all.")
    completion = (one := asked(kind)).answer()
    assert one.told == [completion.messages[-1].text]
    assert len(one.performing.told) > 1, "it came in pieces"


@EVERY
@NOT_STREAMED
def test_where_nobody_listens_no_text_is_told(asked, kind):
    (one := asked(kind)).answer()
    assert one.performing.told == []


@STREAMED
@pytest.mark.parametrize("cut", [{"events": 2}, {"events": 6}, {"events": 7, "kind": "broken"}], ids=str)
def test_a_run_whose_stream_breaks_is_looked_at_and_the_rest_of_its_answer_told(asked, simulator, cut):
    simulator.answer("It is on its way to Bern.")
    simulator.add_fault(RUNS, truncate=cut)
    completion = (one := asked("assistants")).answer()
    assert one.told == [completion.messages[-1].text] == ["It is on its way to Bern."]
    assert one.count(RUNS) == 1


@STREAMED
@pytest.mark.parametrize("kind", ["responses", "stateless responses", "chat"])
@pytest.mark.parametrize("cut", ["clean", "broken"])
@pytest.mark.parametrize("events", [0, 1, 6])
def test_a_stream_that_ends_without_its_last_event_is_no_answer(asked, simulator, kind, cut, events):
    simulator.add_fault(ASKING[kind], truncate={"events": events, "kind": cut})
    one = asked(kind)
    assert one.cause() is Cause.NETWORK
    assert one.count(ASKING[kind]) == 1
    assert "You said: Where is my parcel?".startswith("".join(one.told))


@EVERY
@STREAMED
@pytest.mark.parametrize("form", ["flat", "envelope"])
@pytest.mark.parametrize("events", [0, 5])
def test_an_error_within_a_stream_has_its_cause(asked, simulator, kind, form, events):
    fault = {"events": events, "form": form, "code": "rate_limit_exceeded", "message": "Slow down"}
    simulator.add_fault(ASKING[kind], error_event=fault)
    failure = (one := asked(kind)).refusal()
    assert diagnose(failure) is (Cause.PROVIDER_ERROR if failure.code == "server_error" else Cause.RATE_LIMITED)
    assert one.count(ASKING[kind]) == 1


@EVERY
@STREAMED
def test_a_line_of_a_stream_that_is_no_json_is_an_error_of_the_provider_unless_the_run_can_be_looked_at(
    asked, simulator, kind
):
    simulator.add_fault(ASKING[kind], garble={"events": 5})
    one = asked(kind)
    if kind == "assistants":
        assert one.answer().messages[-1].text == "".join(one.told) == "You said: Where is my parcel?"
    else:
        assert one.cause() is Cause.PROVIDER_ERROR


# Found again


def test_a_run_whose_making_was_never_answered_is_found_by_its_metadata_and_followed(asked, simulator):
    simulator.answer("It is on its way.")
    simulator.add_fault(RUNS, lose_answer=True)
    one = asked("assistants")
    assert one.answer().messages[-1].text == "It is on its way."
    assert one.count(RUNS) == 1


@pytest.mark.parametrize("kind", ["assistants", "responses"])
def test_an_answer_that_was_found_in_the_thread_is_taken_and_nobody_is_asked(asked, simulator, kind):
    one = asked(kind, found=[ThreadItem("message", "assistant", "It is on its way.")])
    completion = one.answer()
    assert [message.text for message in completion.messages] == ["It is on its way."]
    assert (completion.finish_reason, completion.thread_id) == ("found_in_thread", one.request.thread_id)
    assert simulator.requests[one.before :] == []


def test_calls_that_were_found_in_the_thread_without_results_are_answered_there(asked, simulator):
    simulator.answer(CALL, "Take an umbrella.")
    first = tooled(asked, "responses", lambda city: pytest.fail("its answer was lost"))
    simulator.add_fault(RESPONSES, lose_answer=True)
    first.refusal()
    threads = first.performing.of(ConversationThreads(first.client))
    found = threads.read(first.request.thread_id)[1:]
    cities, thread_id = [], first.request.thread_id

    def weather(city):
        cities.append(city)
        return "rain"

    one = tooled(asked, "responses", weather, found=found, unsent=(), thread_id=thread_id)
    assert one.answer().messages[-1].text == "Take an umbrella."
    assert cities == ["Bern"]
    assert [message.role for message in one.journaled] == [Role.ASSISTANT, Role.TOOL]
    held = simulator.provider.items[thread_id]
    assert [item["type"] for item in held] == ["message", "function_call", "function_call_output", "message"]


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
@CROSSWISE
@pytest.mark.parametrize(("fault", "cause"), FAILED.values(), ids=FAILED)
def test_a_failed_run_has_its_cause(asked, simulator, kind, fault, cause):
    simulator.add_fault(ASKING[kind], **fault)
    one = asked(kind)
    assert one.cause() is cause
    assert one.count(ASKING[kind]) == 1


@pytest.mark.parametrize("kind", ["assistants", "responses", "stateless responses"])
@pytest.mark.parametrize(("fault", "cause"), FAILED_LATER.values(), ids=FAILED_LATER)
def test_a_run_that_fails_with_http_200_has_its_cause(asked, simulator, stream, kind, fault, cause):
    simulator.add_fault(ASKING[kind], **fault)
    if stream and kind != "assistants" and cause is Cause.CANCELLED:
        cause = Cause.NETWORK  # no event of a stream says so: it ends without one
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


@EVERY
def test_half_an_answer_is_kept_as_the_partial_text_of_the_failure(asked, simulator, kind):
    reasons = {"chat": "length", "assistants": "max_completion_tokens"}
    simulator.add_fault(ASKING[kind], incomplete=reasons.get(kind, "max_output_tokens"))
    assert "You said: Where is my parcel?".startswith(asked(kind).refusal().partial_text)


def test_what_a_run_that_failed_left_in_its_thread_is_taken_out_and_the_deletion_told(asked, simulator):
    simulator.add_fault(RUNS, incomplete="max_completion_tokens")
    failure = (one := asked("assistants")).refusal()
    assert len(failure.details["deleted_messages"]) == 1
    assert [message["role"] for message in simulator.provider.messages[one.request.thread_id]] == ["user"]


def test_a_server_that_lists_everybodys_messages_for_a_run_loses_none_of_them(asked, simulator):
    one = asked("assistants")
    everything = one.client.sdk.beta.threads.messages.list(one.request.thread_id).to_json()
    simulator.add_fault("GET /threads/{thread_id}/messages", reply={"text": everything})
    simulator.add_fault(RUNS, fail=True)
    assert "deleted_messages" not in one.refusal().details
    assert [message["role"] for message in simulator.provider.messages[one.request.thread_id]] == ["user"]


def test_a_deletion_that_the_provider_refuses_leaves_the_failure_as_it_is(asked, simulator):
    simulator.add_fault(RUNS, incomplete="max_completion_tokens")
    simulator.add_fault("DELETE /threads/{thread_id}/messages/{message_id}", refuse={"status": 500}, times=None)
    failure = asked("assistants").refusal()
    assert diagnose(failure) is Cause.INCOMPLETE
    assert "deleted_messages" not in failure.details


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
@CROSSWISE
@pytest.mark.parametrize(("refusal", "cause"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_has_its_cause_and_its_facts_and_is_not_asked_again(asked, simulator, kind, refusal, cause):
    simulator.add_fault(ASKING[kind], refuse=refusal, times=None)
    one = asked(kind)
    failure = one.refusal()
    assert diagnose(failure) is cause
    assert (failure.http_status, failure.code) == (refusal["status"], refusal.get("code"))
    assert failure.message == refusal.get("message", "The simulator refused this request as scripted.")
    assert failure.request_id
    assert failure.retry_after_seconds == (7.0 if "headers" in refusal else None)
    assert one.count(ASKING[kind]) == 1


@EVERY
def test_a_wrong_key_is_authentication_and_shows_nowhere(performing, stream, kind):
    from threadledger.adapters import Simulator

    with Simulator(seed=7, api_key="sk-test") as strict:
        failure = Asked(strict, performing, kind, key="sk-wrong-key-0123456789", stream=stream).refusal()
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


def test_a_run_that_goes_on_for_too_long_is_timed_out_and_its_thread_can_be_written_to_again(asked, simulator, stream):
    if stream:
        simulator.add_fault(RUNS, hang={"seconds": 30.0, "events": 2})
    one = asked("assistants", timeout_seconds=0.2 if stream else 0.0)
    assert one.cause() is Cause.TIMED_OUT
    threads = one.performing.of(AssistantsThreads(one.client))
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
@NOT_STREAMED
@pytest.mark.parametrize("reply", NOT_AN_ANSWER.values(), ids=NOT_AN_ANSWER)
def test_a_reply_that_is_no_answer_is_an_error_of_the_provider(asked, simulator, kind, reply):
    simulator.add_fault(ASKING[kind], reply=reply)
    # A run that says it is complete, in a thread without an answer, is an answer cut off.
    expected = {Cause.PROVIDER_ERROR, Cause.INCOMPLETE} if kind == "assistants" else {Cause.PROVIDER_ERROR}
    assert asked(kind).cause() in expected


@EVERY
@STREAMED
@pytest.mark.parametrize("reply", NOT_AN_ANSWER.values(), ids=NOT_AN_ANSWER)
def test_a_reply_that_is_no_stream_is_read_as_what_it_is(asked, simulator, kind, reply):
    simulator.add_fault(ASKING[kind], reply=reply)
    failure = (one := asked(kind)).refusal()
    expected = {Cause.PROVIDER_ERROR} if reply["text"].strip() else {Cause.NETWORK}
    assert diagnose(failure) in expected | ({Cause.INCOMPLETE} if kind == "assistants" else set())
    assert one.told == []


@CROSSWISE
@pytest.mark.parametrize("reply", NOT_AN_ANSWER.values(), ids=NOT_AN_ANSWER)
@pytest.mark.parametrize("place", [RUN, "GET /threads/{thread_id}/messages"])
def test_replies_that_are_no_answer_while_a_run_is_followed_are_an_error_of_the_provider(
    asked, simulator, place, reply
):
    simulator.add_fault(RUNS, truncate={"events": 2})  # a run whose stream breaks is looked at
    simulator.add_fault(place, reply=reply, times=None)
    assert asked("assistants").cause() in {Cause.PROVIDER_ERROR, Cause.INCOMPLETE}


def test_one_look_at_a_run_that_goes_wrong_does_not_lose_the_run(asked, simulator):
    simulator.add_fault(RUNS, truncate={"events": 2})
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


def busy_with(one, **metadata):
    """Begin a run in the thread beside ours; how to look at it."""
    sdk = one.client.sdk
    assistant = sdk.beta.assistants.create(model="m")
    run = sdk.beta.threads.runs.create(one.request.thread_id, assistant_id=assistant.id, metadata=metadata)
    return lambda: sdk.beta.threads.runs.retrieve(run.id, thread_id=one.request.thread_id)


def test_a_thread_that_stays_busy_with_somebody_elses_run_is_thread_busy(asked):
    one = asked("assistants", timeout_seconds=0.5)
    other = busy_with(one)
    assert one.cause() is Cause.THREAD_BUSY
    assert other().status == "in_progress", "it is not ours to cancel"


def test_somebody_elses_run_is_waited_for(asked, performing):
    one = asked("assistants")
    performing.meanwhile = busy_with(one)
    assert one.answer().messages[-1].text.startswith("You said: ")
    assert FOREIGN_POLL_SECONDS in performing.waited


def test_a_run_of_ours_that_nobody_follows_any_more_is_cancelled(asked):
    one = asked("assistants")
    other = busy_with(one, run_id="one of a process that crashed")
    assert one.answer().messages[-1].text == "You said: Where is my parcel?"
    assert other().status == "cancelled"


# Preflight

PREFLIGHT = {
    "nothing to answer": ({"memory": Memory()}, Cause.EMPTY_MEMORY),
    "instructions over the limit": ({"profile": Profile(instructions="x" * 256_001)}, Cause.INSTRUCTIONS_TOO_LONG),
    "129 tools": ({"profile": Profile(tools_json="[" + ",".join([WEATHER[1:-1]] * 129) + "]")}, Cause.TOO_MANY_TOOLS),
    "a tool nobody knows": ({"profile": Profile(tools_json='[{"type": "web_open"}]')}, Cause.TOOL_NOT_SUPPORTED),
}


@UNASKED
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


@UNASKED
@EVERY
def test_a_request_that_can_be_made_passes_preflight(asked, kind):
    one = asked(kind, profile=Profile(instructions="x" * 256_000, tools_json=WEATHER))
    assert one.backend.preflight(one.request) is None


@UNASKED
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
    assert [(each.name, each.arguments) for each in one.performing.told if isinstance(each, ToolUse)] == [
        ("weather", '{"city": "Bern"}')
    ]
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
    assert sum(isinstance(part, ToolUse) for part in one.performing.told) == 3
    assert one.told == (["Done."] if one.request.stream else [])


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
    threads = one.performing.of(AssistantsThreads(one.client))
    more = threads.render(Memory((JournaledMessage(text_message("user", "And now?"), "m2", 5, datetime.now(UTC)),), 5))
    threads.add(one.request.thread_id, more.items)
    assert one.answer().messages[-1].text == "You said: And now?"


@EVERY
def test_a_model_that_never_stops_asking_for_tools_is_stopped(asked, simulator, kind, monkeypatch):
    monkeypatch.setattr(limits, "TOOL_ROUNDS_MAX", 3)
    simulator.answer(*[CALL] * 8)
    calls = []
    one = tooled(asked, kind, lambda city: calls.append(city) or "sun")
    assert one.cause() is Cause.TOOL_FAILED
    assert len(calls) == 3
