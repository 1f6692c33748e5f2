"""Test a simulator that stores its state in a file, so that the next simulator continues from it."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.simulator import Simulator, StateError
from threadledger.adapters.simulator.control import state

# The SDK warns at each call of the Assistants API; `test_settings.py` checks that our own calls suppress it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API
HELLO = [{"role": "user", "content": "hello there"}]
TOOL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "provider.db"


def client_of(simulator):
    return OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0)


def everything(simulator):
    shown = state(simulator.provider)
    # Reads are counted as well.
    return {name: value for name, value in shown.items() if name != "request_counts"}


def live_a_little(simulator, client):
    """Create one object of each kind, and for some kinds a second one that is deleted again."""
    assistant = client.beta.assistants.create(model="any-model").id
    client.beta.assistants.update(assistant, name="John")
    client.beta.assistants.delete(client.beta.assistants.create(model="any-model").id)
    thread = client.beta.threads.create(messages=HELLO).id
    client.beta.threads.delete(client.beta.threads.create(messages=HELLO).id)
    first = client.beta.threads.messages.create(thread, role="user", content="one")
    client.beta.threads.messages.create(thread, role="user", content="two")
    client.beta.threads.messages.update(first.id, thread_id=thread, metadata={"k": "v"})
    list(client.beta.threads.runs.create(thread, assistant_id=assistant, stream=True))
    simulator.answer(TOOL)
    client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)
    conversation = client.conversations.create(items=HELLO).id
    items = client.conversations.items.create(conversation, items=HELLO * 3).data
    client.conversations.items.delete(items[1].id, conversation_id=conversation)
    list(client.responses.create(model="m", input="x", conversation=conversation, stream=True))
    client.responses.create(model="m", input="x", background=True, conversation=conversation)
    client.chat.completions.create(model="m", messages=HELLO, store=True)


def test_everything_is_as_it_was(path):
    script = {"retired_models": ["gpt-4"], "rate_limits": {"requests_per_minute": 10_000}, "answers": ["one"]}
    with Simulator(state=path, script=script, clock=lambda: 1_700_000_000.0) as first, client_of(first) as client:
        live_a_little(first, client)
        first.answer("left", TOOL)
        first.add_fault("GET /models", refuse={"status": 500}, times=3)
        first.add_fault("POST /responses", truncate={"events": 4, "kind": "broken"}, after=2)
        first.add_fault("POST /responses", fail=True, probability=0.5)
        with pytest.raises(openai.InternalServerError):
            client.models.list()
        first.retire("chat")
        held, counts = everything(first), first.provider.request_counts
    with Simulator(state=path, clock=lambda: 1_700_000_000.0) as second:
        assert everything(second) == held
        assert second.provider.request_counts == counts
        assert second.seed == first.seed


def test_what_was_begun_goes_on(path):
    with Simulator(state=path) as first, client_of(first) as client:
        assistant = client.beta.assistants.create(model="any-model").id
        first.answer(TOOL)
        waiting = client.beta.threads.create_and_run_poll(assistant_id=assistant, thread={"messages": HELLO})
        first.add_fault("POST /threads/runs", incomplete="max_completion_tokens")
        queued = client.beta.threads.create_and_run(assistant_id=assistant, thread={"messages": HELLO})
        conversation = client.conversations.create().id
        response = client.responses.create(model="m", input="x", background=True, conversation=conversation)
    with Simulator(state=path) as second, client_of(second) as client:
        outputs = [{"tool_call_id": waiting.required_action.submit_tool_outputs.tool_calls[0].id, "output": "sunny"}]
        ended = client.beta.threads.runs.submit_tool_outputs_and_poll(
            run_id=waiting.id, thread_id=waiting.thread_id, tool_outputs=outputs
        )
        assert ended.status == "completed"
        assert client.beta.threads.runs.poll(queued.id, thread_id=queued.thread_id).status == "incomplete"
        with pytest.raises(openai.BadRequestError) as caught:
            client.conversations.items.create(conversation, items=HELLO)
        assert caught.value.code == "conversation_locked"
        assert [client.responses.retrieve(response.id).status for _ in range(2)] == ["in_progress", "completed"]
        assert len(second.provider.items[conversation]) == 2


def test_no_id_is_given_twice_and_chances_go_on(path):
    ids = []
    for _ in range(3):
        with Simulator(state=path, seed=7) as simulator, client_of(simulator) as client:
            ids += [client.conversations.create().id for _ in range(3)]
    assert len(set(ids)) == 9


def test_a_fault_that_happened_before_does_not_happen_again(path):
    script = {"faults": [{"on": "GET /models", "refuse": {"status": 500}}], "answers": ["once"]}
    said = []
    for _ in range(2):
        with Simulator(state=path, script=script) as simulator, client_of(simulator) as client:
            try:
                client.models.list()
                said.append("listed")
            except openai.InternalServerError:
                said.append("refused")
            said.append(client.responses.create(model="m", input="x").output_text)
    assert said == ["refused", "once", "listed", "You said: x"]


def test_the_same_simulator_started_again_keeps_to_its_file(path):
    simulator = Simulator(state=path)
    for _ in range(2):
        with simulator, client_of(simulator) as client:
            client.conversations.create(items=HELLO)
        simulator.answer("said while it was stopped")
    with Simulator(state=path) as other, client_of(other) as client:
        assert len(other.provider.conversations) == 2
        assert client.responses.create(model="m", input="x").output_text == "said while it was stopped"


def test_an_answer_that_was_heard_survives_a_crash(path):
    code = (
        "import sys; from threadledger.adapters.simulator import Simulator\n"
        "s = Simulator(state=sys.argv[1]).start(); print(s.base_url, flush=True); s.serve_forever()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            with OpenAI(base_url=process.stdout.readline().strip(), api_key="sk-test", max_retries=0) as client:
                conversation = client.conversations.create().id
                items = client.conversations.items.create(conversation, items=HELLO).data
                url = str(client.base_url).replace("/v1/", "/_simulator")
                client.post(
                    f"{url}/faults",
                    body={"on": "POST /responses", "hang": {"seconds": 600, "events": 4}},
                    cast_to=object,
                )
                with client.responses.create(model="m", input="x", conversation=conversation, stream=True) as stream:
                    response = next(iter(stream)).response.id
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
        finally:
            process.kill()
    with Simulator(state=path) as after, client_of(after) as client:
        assert [item.id for item in client.conversations.items.list(conversation)] == [items[0].id]
        # The stream has no reader any more, so its response has ended and its conversation is unlocked.
        assert client.responses.retrieve(response).status == "cancelled"
        assert client.responses.create(model="m", input="x", conversation=conversation).status == "completed"


def test_only_what_changed_is_written(path):
    with Simulator(state=path) as simulator, client_of(simulator) as client:
        conversation = client.conversations.create(items=HELLO * 20).id
        for _ in range(3):
            client.conversations.items.create(conversation, items=HELLO * 20)
        file = simulator._file._connection
        before = file.total_changes
        client.conversations.items.create(conversation, items=HELLO)
        # These change: the item, its conversation, the id counter and the request counter.
        assert file.total_changes - before <= 4


def test_two_simulators_cannot_share_a_file(path):
    with Simulator(state=path), pytest.raises(StateError, match="cannot be used: database is locked"):
        Simulator(state=path).start()
    with Simulator(state=path) as again:
        assert again.base_url


@pytest.mark.parametrize("content", ["text", "database", "future"])
def test_a_file_that_is_not_its_own_is_refused_and_left_as_it_is(path, content):
    if content == "text":
        path.write_text("these are somebody's notes, which must not be lost\n" * 100)
    else:
        with closing(sqlite3.connect(path)) as other:
            if content == "future":
                with Simulator(state=path):
                    pass
                other.execute("PRAGMA user_version = 99")
            else:
                other.execute("CREATE TABLE notes (text)")
                other.execute("PRAGMA user_version = 1")
            other.commit()
    before = path.read_bytes()
    with pytest.raises(StateError, match=str(path)):
        Simulator(state=path).start()
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_refused_in_plain_words(tmp_path):
    with pytest.raises(StateError, match="cannot be opened"):
        Simulator(state=tmp_path / "nowhere" / "provider.db").start()


def test_a_simulator_that_cannot_listen_lets_its_file_go(path):
    with Simulator() as taken, pytest.raises(OSError, match="cannot listen"):
        Simulator(port=int(taken.base_url.split(":")[2].split("/")[0]), state=path).start()
    with Simulator(state=path) as simulator:
        assert simulator.base_url


def test_after_a_reset_nothing_is_left(path):
    with Simulator(state=path, script={"retired_apis": ["chat"]}) as simulator, client_of(simulator) as client:
        conversation = client.conversations.create(items=HELLO).id
        simulator.add_fault("*", drop=True)
        simulator.limit_rates(requests_per_minute=5)
        simulator.reset()
        with pytest.raises(openai.NotFoundError):
            client.conversations.retrieve(conversation)
    with Simulator(state=path) as after:
        shown = everything(after)
        assert {name: value for name, value in shown.items() if value and name != "seed"} == {}
