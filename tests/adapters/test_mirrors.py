"""The contract of `ThreadMirror`, on both implementations, with both drivers: what is written is read back, in order, once."""

from datetime import UTC, datetime

import pytest

from threadledger.adapters.openai import AssistantsThreads, Client, ConversationThreads
from threadledger.domain.conversation import parse_message
from threadledger.domain.conversation.messages import JournaledMessage
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.failures import Cause, diagnose
from threadledger.domain.ids import to_iso
from threadledger.domain.memory import Memory
from threadledger.domain.threads import ThreadState, bring_up, compare

from .performing import DRIVERS

# The SDK warns at each call for assistants; that our own calls are quiet is proved in test_settings.py.
pytestmark = pytest.mark.filterwarnings(r"ignore:(The Assistants API is )?deprecated:DeprecationWarning")

KINDS = {"assistants": AssistantsThreads, "conversations": ConversationThreads}
CREATE = {"assistants": "POST /threads", "conversations": "POST /conversations"}
ADD = {
    "assistants": "POST /threads/{thread_id}/messages",
    "conversations": "POST /conversations/{conversation_id}/items",
}
READ = {name: place.replace("POST", "GET") for name, place in ADD.items()}
BROKEN = {
    "a proxy's page": {"text": "<html>Please log in</html>", "content_type": "text/html"},
    "broken JSON": {"text": '{"object": "list", "da'},
    "null": {"text": "null"},
    "an empty object": {"text": "{}"},
    "a list": {"text": "[]"},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=DRIVERS)
def performing(request):
    with DRIVERS[request.param]() as driver:
        yield driver


@pytest.fixture
def client(simulator, performing):
    return performing.closing(Client(api_key="sk-test", base_url=simulator.base_url, timeout_seconds=5.0))


@pytest.fixture
def mirror_of(performing, client):
    """A mirror of a class, that does at once what it is told."""
    return lambda mirrors: performing.of(mirrors(client))


@pytest.fixture
def mirror(kind, mirror_of):
    return mirror_of(KINDS[kind])


@pytest.fixture
def deliver(kind, client, performing):
    """Bring a thread up, as the outbox does."""
    return lambda thread_id, items: performing(bring_up(KINDS[kind](client), thread_id, items))


def memory(*messages):
    return Memory(
        tuple(
            JournaledMessage(parse_message(each), f"m{i}", i, datetime.now(UTC)) for i, each in enumerate(messages, 2)
        ),
        len(messages) + 1,
    )


def talk(count):
    return memory(*({"role": ("user", "assistant")[i % 2], "content": f"text {i // 3}"} for i in range(count)))


def refusal(call, *args):
    with pytest.raises(ProviderRefused) as refused:
        call(*args)
    return refused.value.failure


def in_batches(mirror, thread_id, items):
    """Add items, however many, as a delivery does."""
    for start in range(0, len(items), mirror.batch):
        mirror.add(thread_id, items[start : start + mirror.batch])


def count(simulator, template):
    return sum(request.template == template for request in simulator.requests)


def test_a_new_thread_is_empty_and_says_whose_it_is(mirror, kind, simulator):
    thread_id = mirror.create("customer-42")
    assert list(mirror.read(thread_id)) == []
    held = simulator.provider.threads if kind == "assistants" else simulator.provider.conversations
    assert held[thread_id]["metadata"] == {"threadledger_key": "customer-42"}


def test_the_longest_key_makes_a_thread(mirror):
    assert mirror.create("語" * 200)


@pytest.mark.parametrize("messages", [1, 2, 20, 21, 41, 250])
def test_what_is_added_is_read_back_in_order(mirror, messages):
    items = mirror.render(talk(messages)).items
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, items)
    assert list(mirror.read(thread_id)) == list(items)
    assert len(items) == messages
    assert compare(items, mirror.read(thread_id)).state is ThreadState.SAME


@pytest.mark.parametrize("kind", ["conversations"], indirect=True)
def test_a_conversation_is_written_in_batches_of_twenty(mirror, deliver, simulator):
    deliver(mirror.create("k"), mirror.render(talk(45)).items)
    sizes = [len(request.body["items"]) for request in simulator.requests if request.template == ADD["conversations"]]
    assert sizes == [20, 20, 5]


def test_what_is_added_in_two_goes_stands_in_the_order_of_the_goes(mirror):
    items = mirror.render(talk(6)).items
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, items[:4])
    in_batches(mirror, thread_id, items[4:])
    assert list(mirror.read(thread_id)) == list(items)


@pytest.mark.parametrize(
    "text", ["a\0b", "👩‍👩‍👧‍👦 é", " leading and trailing \n", "a\u2028b", "{}", "語" * 20_000, "x" * 256_000]
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_words_come_back_as_they_were(mirror, role, text):
    items = mirror.render(memory({"role": role, "content": text})).items
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, items)
    assert [(item.name, item.content) for item in mirror.read(thread_id)] == [(role, text)]


def test_a_text_over_the_limit_of_a_thread_message_goes_as_several_that_hold_all_of_it(mirror_of):
    mirror = mirror_of(AssistantsThreads)
    text = "".join(chr(97 + i % 26) for i in range(600_001))
    items = mirror.render(memory({"role": "user", "content": text})).items
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, items)
    assert [len(item.content) for item in items] == [256_000, 256_000, 88_001]
    assert "".join(item.content for item in mirror.read(thread_id)) == text


# What fits

EVERYTHING = (
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"},
                                 {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]},
    {"role": "assistant", "content": "I look.", "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}]},
    {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    {"role": "assistant", "content": "A cat.", "annotations": [1]},
    {"role": "user", "content": ""},
    {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
)  # fmt: skip


def test_everything_a_memory_can_hold_is_written_read_back_and_equal(mirror, simulator):
    simulator.add_file(file_id="file-1")
    items = mirror.render(memory(*EVERYTHING)).items
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, items)
    assert compare(items, mirror.read(thread_id)).state is ThreadState.SAME


def test_an_assistants_thread_says_what_it_cannot_carry(mirror_of):
    rendering = mirror_of(AssistantsThreads).render(memory(*EVERYTHING))
    assert rendering.losses == {
        "system_messages": 1,
        "developer_messages": 1,
        "tool_calls_as_text": 1,
        "tool_results_as_text": 1,
        "empty_messages": 1,
        "extra_fields": 1,
        "files": 1,
    }
    assert [(item.name, item.content) for item in rendering.items] == [
        ("user", "What is it?\n\n[image https://x.test/a.png]"),
        ("assistant", "I look."),
        ("assistant", '[tool call look {"at": 1}]'),
        ("assistant", "[tool result a cat]"),
        ("assistant", "A cat."),
        ("user", "[file file-1]"),
    ]


def test_a_conversation_says_what_it_cannot_carry(mirror_of):
    rendering = mirror_of(ConversationThreads).render(memory(*EVERYTHING))
    assert rendering.losses == {"empty_messages": 1, "extra_fields": 1}
    assert [(item.kind, item.name) for item in rendering.items] == [
        ("message", "system"),
        ("message", "developer"),
        ("message", "user"),
        ("message", "assistant"),
        ("tool_call", "look"),
        ("tool_result", ""),
        ("message", "assistant"),
        ("message", "user"),
    ]


def test_an_image_goes_to_an_assistants_thread_as_an_image(mirror_of, simulator):
    mirror = mirror_of(AssistantsThreads)
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, mirror.render(memory(EVERYTHING[2])).items)
    (message,) = simulator.provider.messages[thread_id]
    assert [part["type"] for part in message["content"]] == ["text", "image_url"]


def test_a_call_without_a_result_is_written_with_one_that_says_so(mirror_of):
    mirror = mirror_of(ConversationThreads)
    items = mirror.render(memory(EVERYTHING[3], {"role": "user", "content": "And?"})).items
    assert [item.kind for item in items] == ["message", "tool_call", "tool_result", "message"]
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, items)
    assert "no result" in mirror.read(thread_id)[2].content


def test_each_message_of_an_assistants_thread_names_the_journals_message_and_when_it_was_written(mirror_of, simulator):
    mirror = mirror_of(AssistantsThreads)
    thread_id = mirror.create("k")
    memory = talk(2)
    in_batches(mirror, thread_id, mirror.render(memory).items)
    assert [m["metadata"] for m in simulator.provider.messages[thread_id]] == [
        {"threadledger_message": each.message_id, "threadledger_written_at": to_iso(each.at)}
        for each in memory.messages
    ]


# Lost answers


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_write_whose_answer_is_lost_is_not_doubled(mirror, deliver, kind, simulator, after):
    items = mirror.render(talk(60)).items
    simulator.add_fault(ADD[kind], lose_answer=True, after=after)
    thread_id = mirror.create("k")
    deliver(thread_id, items)
    assert list(mirror.read(thread_id)) == list(items)


def test_a_write_that_was_dropped_is_sent_again(mirror, deliver, performing, kind, simulator):
    items = mirror.render(talk(60)).items
    simulator.add_fault(ADD[kind], drop=True, after=1, times=2)
    thread_id = mirror.create("k")
    deliver(thread_id, items)
    assert list(mirror.read(thread_id)) == list(items)
    assert len(performing.waited) == 2


def test_every_answer_lost_still_brings_the_thread_up_once(mirror, deliver, kind, simulator):
    items = mirror.render(talk(5)).items
    simulator.add_fault(ADD[kind], lose_answer=True, times=None)
    thread_id = mirror.create("k")
    deliver(thread_id, items)
    assert list(mirror.read(thread_id)) == list(items)


def test_a_write_that_lands_after_it_was_sent_again_is_taken_out_and_told(mirror, deliver, kind, simulator):
    items = mirror.render(memory({"role": "user", "content": "a"}, {"role": "user", "content": "b"})).items
    simulator.add_fault(ADD[kind], land_late=2)  # after the thread was read and the write sent again
    thread_id = mirror.create("k")
    delivered = deliver(thread_id, items)
    assert list(mirror.read(thread_id)) == list(items)
    assert len(delivered.deleted) == (1 if kind == "assistants" else 2)


def test_a_provider_that_takes_nothing_is_given_up_after_a_bounded_number_of_attempts(mirror, deliver, kind, simulator):
    items = mirror.render(talk(1)).items
    simulator.add_fault(ADD[kind], drop=True, times=None)
    thread_id = mirror.create("k")
    assert diagnose(refusal(deliver, thread_id, items)) is Cause.NETWORK
    assert count(simulator, ADD[kind]) == 6


def test_the_sdk_repeats_no_write_by_itself(mirror, kind, simulator):
    items = mirror.render(talk(1)).items
    thread_id = mirror.create("k")
    simulator.add_fault(ADD[kind], refuse={"status": 500}, times=None)
    assert diagnose(refusal(mirror.add, thread_id, items)) is Cause.PROVIDER_ERROR
    assert count(simulator, ADD[kind]) == 1


# What is taken out


def test_what_was_read_is_deleted_and_nothing_else(mirror):
    items = mirror.render(talk(6)).items
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, items)
    held = mirror.read(thread_id)
    mirror.delete(thread_id, [held[1], held[4]])
    assert list(mirror.read(thread_id)) == [items[index] for index in (0, 2, 3, 5)]


def test_deleting_what_is_gone_already_is_quiet(mirror):
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, mirror.render(talk(2)).items)
    held = mirror.read(thread_id)
    mirror.delete(thread_id, held)
    mirror.delete(thread_id, held)
    assert list(mirror.read(thread_id)) == []


@pytest.fixture
def ran(client):
    """Makes a run in a thread, for this run of ours, and looks at it so often; its status then."""

    def make(thread_id, run_id, looks):
        sdk = client.sdk
        assistant = sdk.beta.assistants.create(model="m")
        run = sdk.beta.threads.runs.create(thread_id, assistant_id=assistant.id, metadata={"run_id": run_id})
        for _ in range(looks):
            run = sdk.beta.threads.runs.retrieve(run.id, thread_id=thread_id)
        return run.status

    return make


@pytest.fixture
def swept(mirror_of):
    mirror = mirror_of(AssistantsThreads)
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, mirror.render(talk(1)).items)
    return mirror, thread_id


def roles(mirror, thread_id):
    return [item.name for item in mirror.read(thread_id)]


def test_a_run_of_ours_that_still_goes_on_is_ended_by_a_sweep_and_the_thread_takes_messages(swept, ran, simulator):
    mirror, thread_id = swept
    assert ran(thread_id, "r1", looks=1) == "in_progress"
    mirror.sweep(thread_id, ["r1"], completed=False)
    assert [run["status"] for run in simulator.provider.runs.values()] == ["cancelled"]
    in_batches(mirror, thread_id, mirror.render(talk(1)).items)
    assert roles(mirror, thread_id) == ["user", "user"]


def test_what_a_failed_run_of_ours_left_is_swept_out(swept, ran, simulator):
    mirror, thread_id = swept
    simulator.add_fault("POST /threads/{thread_id}/runs", incomplete="max_completion_tokens")
    assert ran(thread_id, "r1", looks=2) == "incomplete"
    assert len(mirror.sweep(thread_id, ["r1"], completed=False)) == 1
    assert roles(mirror, thread_id) == ["user"]


def test_a_completed_run_is_swept_out_only_where_that_is_wanted(swept, ran):
    mirror, thread_id = swept
    assert ran(thread_id, "r1", looks=2) == "completed"
    assert mirror.sweep(thread_id, ["r1"], completed=False) == []
    assert roles(mirror, thread_id) == ["user", "assistant"]
    assert len(mirror.sweep(thread_id, ["r1"], completed=True)) == 1
    assert roles(mirror, thread_id) == ["user"]


def test_a_run_of_ours_that_nobody_follows_any_more_keeps_no_message_out_of_its_thread(swept, ran):
    mirror, thread_id = swept
    assert ran(thread_id, "r1", looks=0) == "queued"
    mirror.add(thread_id, mirror.render(talk(1)).items)
    assert roles(mirror, thread_id) == ["user", "user"]


def test_somebody_elses_run_is_never_swept_out(swept, ran):
    mirror, thread_id = swept
    assert ran(thread_id, "theirs", looks=2) == "completed"
    assert mirror.sweep(thread_id, ["r1"], completed=True) == []
    assert roles(mirror, thread_id) == ["user", "assistant"]


def test_a_sweep_for_no_run_asks_nobody(mirror, simulator):
    thread_id = mirror.create("k")
    before = len(simulator.requests)
    assert list(mirror.sweep(thread_id, [], completed=True)) == []
    assert len(simulator.requests) == before


# What goes wrong


@pytest.mark.parametrize("method", ["add", "read"])
def test_a_thread_that_is_gone_is_thread_missing(mirror, simulator, method):
    items = mirror.render(talk(1)).items
    thread_id = mirror.create("k")
    simulator.lose(thread_id)
    failure = refusal(mirror.read, thread_id) if method == "read" else refusal(mirror.add, thread_id, items)
    assert diagnose(failure) is Cause.THREAD_MISSING
    assert (failure.http_status, failure.thread_id) == (404, thread_id)


@pytest.mark.parametrize("method", ["create", "add", "read"])
def test_an_api_that_was_shut_down_is_provider_gone(mirror, kind, simulator, method):
    items = mirror.render(talk(1)).items
    thread_id = mirror.create("k")
    simulator.retire(kind)
    arguments = {"create": ("k",), "add": (thread_id, items), "read": (thread_id,)}[method]
    assert diagnose(refusal(getattr(mirror, method), *arguments)) is Cause.PROVIDER_GONE


@pytest.mark.parametrize("method", ["create", "add", "read"])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"drop": True}, Cause.NETWORK),
        ({"refuse": {"status": 503}}, Cause.PROVIDER_ERROR),
        ({"refuse": {"status": 429, "code": "rate_limit_exceeded"}}, Cause.RATE_LIMITED),
        ({"refuse": {"status": 401, "code": "invalid_api_key"}}, Cause.AUTHENTICATION),
        ({"refuse": {"status": 400, "code": "conversation_locked"}}, Cause.THREAD_BUSY),
        ({"reply": BROKEN["a proxy's page"]}, Cause.PROVIDER_ERROR),
    ],
    ids=["drop", "503", "429", "401", "locked", "html"],
)
def test_every_method_raises_provider_refused_with_the_cause(mirror, kind, simulator, method, fault, cause):
    items = mirror.render(talk(1)).items
    thread_id = mirror.create("k")
    simulator.add_fault({"create": CREATE, "add": ADD, "read": READ}[method][kind], **fault, times=None)
    arguments = {"create": ("k",), "add": (thread_id, items), "read": (thread_id,)}[method]
    assert diagnose(refusal(getattr(mirror, method), *arguments)) is cause


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_reply_that_is_no_list_is_never_read_as_an_empty_thread(mirror, kind, simulator, reply):
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, mirror.render(talk(3)).items)
    simulator.add_fault(READ[kind], reply=reply)
    assert diagnose(refusal(mirror.read, thread_id)) is Cause.PROVIDER_ERROR


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_reply_without_an_id_is_no_thread(mirror, kind, simulator, reply):
    simulator.add_fault(CREATE[kind], reply=reply)
    assert diagnose(refusal(mirror.create, "k")) is Cause.PROVIDER_ERROR


def test_a_page_that_fails_half_way_is_no_short_thread(mirror, kind, simulator):
    thread_id = mirror.create("k")
    in_batches(mirror, thread_id, mirror.render(talk(120)).items)
    simulator.add_fault(READ[kind], refuse={"status": 500}, after=1)
    assert diagnose(refusal(mirror.read, thread_id)) is Cause.PROVIDER_ERROR


@pytest.mark.parametrize("mirrors", KINDS.values(), ids=KINDS)
def test_an_endpoint_has_no_secrets_in_it(mirrors):
    mirror = mirrors(Client(api_key="sk-x", base_url="https://user:hunter2@api.test:8443/v1/?api-key=hunter2"))
    assert mirror.endpoint == "https://api.test:8443/v1"
