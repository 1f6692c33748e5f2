"""A request that a client repeats stores nothing twice, and two equal requests that it was told of stay two."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from threadledger.adapters.server.calls import Handler
from threadledger.adapters.server.handlers import HANDLERS
from threadledger.adapters.server.runner import Runner
from threadledger.domain.ledger import Ledger

from .assistant_app import CALL, App
from .route_requests import FORM, encoded
from .speaking import SECONDS_MAX, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

RETRY = {"x-stainless-retry-count": "1"}
HELLO = {"role": "user", "content": "Where is my parcel?"}
UPLOAD = {FORM: ["notes.txt", "The parcel is in Lyon."], "purpose": "assistants"}


@pytest.fixture
def post(server: Any) -> Any:
    """Return a function that sends a POST and returns the object of its answer."""

    def send(path: str, body: Any, headers: Any = None) -> Any:
        raw, kind = encoded(body)
        given = {"content-type": kind, **(headers or {})}
        answer = httpx2.post(f"{server.base_url}{path}", content=raw, headers=given, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send


class Gate:
    """Hold the handler of one request until its client has left."""

    def __init__(self) -> None:
        self.is_armed = False
        self.entered = threading.Event()
        self.left = threading.Event()
        self.until: threading.Event | None = None

    def through(self, handler: Handler) -> Handler:
        """Return a handler that is held if the gate is armed."""

        def held(served: Any, call: Any) -> Any:
            if not self.is_armed:
                return handler(served, call)
            self.is_armed = False
            self.entered.set()
            assert (self.until or call.gone).wait(SECONDS_MAX)
            self.until = None
            try:
                return handler(served, call)
            finally:
                self.left.set()

        return held

    def hold(self, until: threading.Event) -> None:
        """Hold the next request until an event, while its client waits."""
        self.is_armed = True
        self.entered.clear()
        self.left.clear()
        self.until = until

    def leave(self, server: Any, path: str, body: Any, headers: Any = None, method: str = "POST") -> None:
        """Send a request as a client that closes its connection before the answer; return when the request was handled."""
        self.is_armed = True
        self.entered.clear()
        self.left.clear()
        raw, kind = encoded(body)  # JSON as httpx2 writes it
        own = {"Host": f"127.0.0.1:{server.port}"}
        if method == "POST":
            own |= {"Content-Type": kind, "Content-Length": str(len(raw))}
        raw = raw if method == "POST" else b""
        head = "".join(f"{name}: {value}\r\n" for name, value in {**own, **(headers or {})}.items())
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{method} /v1{path} HTTP/1.1\r\n{head}\r\n".encode() + raw)
            assert self.entered.wait(SECONDS_MAX)
        assert self.left.wait(SECONDS_MAX)


GATE = Gate()
leave = GATE.leave


@pytest.fixture
def server(serving: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a running server whose handlers can be held."""
    monkeypatch.setattr(
        "threadledger.adapters.server.server.HANDLERS", {n: GATE.through(h) for n, h in HANDLERS.items()}
    )
    return serving()


def test_a_retry_of_a_message_whose_answer_was_lost_stores_nothing(
    app: App, server: Any, ledger: Ledger, post: Any
) -> None:
    path = f"/threads/{app.thread.id}/messages"
    leave(server, path, HELLO)
    again = post(path, HELLO, RETRY)
    assert app.said == ["Hello", "Where is my parcel?"]
    assert app.messages.list(app.thread.id).data[0].id == again["id"]


def test_two_equal_messages_that_were_answered_stay_two(app: App, server: Any, ledger: Ledger, post: Any) -> None:
    path = f"/threads/{app.thread.id}/messages"
    first, second = post(path, HELLO), post(path, HELLO)
    assert first["id"] != second["id"]
    third = post(path, HELLO, RETRY)  # its first attempt never arrived
    assert third["id"] not in {first["id"], second["id"]}
    assert app.said == ["Hello", *["Where is my parcel?"] * 3]


def test_a_retry_is_matched_to_the_request_that_was_lost_not_to_an_equal_one_before(
    app: App, server: Any, ledger: Ledger, post: Any
) -> None:
    path = f"/threads/{app.thread.id}/messages"
    first = post(path, HELLO)
    leave(server, path, HELLO)
    again = post(path, HELLO, RETRY)
    assert again["id"] != first["id"]
    assert app.said == ["Hello", *["Where is my parcel?"] * 2]
    assert post(path, HELLO, RETRY)["id"] not in {first["id"], again["id"]}


def test_after_a_kill_a_client_that_did_something_else_since_is_not_given_an_old_response(
    app: App, server: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/threads/{app.thread.id}/messages"
    with monkeypatch.context() as killed:
        killed.setattr(Runner, "sent", lambda *_: None)
        first = post(path, HELLO)
        assert post(path, HELLO, RETRY)["id"] == first["id"]  # it may be the one whose response was lost
        post(path, {**HELLO, "content": "And?"})
    assert post(path, HELLO, RETRY)["id"] != first["id"]
    assert app.said == ["Hello", "Where is my parcel?", "And?", "Where is my parcel?"]


def test_a_request_whose_answer_was_lost_is_recognised_after_another_client_did_something_in_the_thread(
    app: App, server: Any, post: Any
) -> None:
    path = f"/threads/{app.thread.id}/messages"
    leave(server, path, HELLO)
    post(path, {**HELLO, "content": "And?"})
    post(path, HELLO, RETRY)
    assert app.said == ["Hello", "Where is my parcel?", "And?"]


def test_a_request_of_another_body_or_path_is_another_request(
    app: App, server: Any, ledger: Ledger, post: Any, client: OpenAI
) -> None:
    other = client.beta.threads.create()
    leave(server, f"/threads/{app.thread.id}/messages", HELLO)
    post(f"/threads/{other.id}/messages", HELLO, RETRY)
    post(f"/threads/{app.thread.id}/messages", {**HELLO, "content": "And?"}, RETRY)
    assert app.said == ["Hello", "Where is my parcel?", "And?"]


def test_without_a_retry_count_an_equal_request_is_another_one(
    app: App, server: Any, ledger: Ledger, post: Any
) -> None:
    path = f"/threads/{app.thread.id}/messages"
    leave(server, path, HELLO)
    post(path, HELLO)
    post(path, HELLO, {"x-stainless-retry-count": "0"})
    assert app.said == ["Hello", *["Where is my parcel?"] * 3]


def test_a_repeated_run_is_one_run(app: App, server: Any, ledger: Ledger, post: Any, simulator: Any) -> None:
    path = f"/threads/{app.thread.id}/runs"
    leave(server, path, {"assistant_id": app.assistant.id})
    until(lambda: app.said == ["Hello", "You said: Hello"])
    again = post(path, {"assistant_id": app.assistant.id}, RETRY)
    assert [each.id for each in app.runs.list(app.thread.id).data] == [again["id"]]
    assert len(simulator.requests) == 1


def test_repeated_results_continue_the_run_once(
    app: App, server: Any, ledger: Ledger, post: Any, simulator: Any
) -> None:
    simulator.answer(CALL, "It is sunny.")
    run = app.run()
    path = f"/threads/{app.thread.id}/runs/{run.id}/submit_tool_outputs"
    call = run.required_action.submit_tool_outputs.tool_calls[0].id
    body = {"tool_outputs": [{"tool_call_id": call, "output": "sunny"}]}
    leave(server, path, body)
    until(lambda: app.said == ["Hello", "It is sunny."])
    assert post(path, body, RETRY)["id"] == run.id
    assert [each.role_name for each in ledger.memory(app.thread.id).messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]


def test_a_repeated_cancel_returns_the_cancelled_run(app: App, server: Any, post: Any, simulator: Any) -> None:
    simulator.answer(CALL)
    run = app.run()
    path = f"/threads/{app.thread.id}/runs/{run.id}/cancel"
    leave(server, path, {})
    assert post(path, {}, RETRY)["status"] == "cancelled"


@pytest.mark.parametrize("headers", [RETRY, {"Idempotency-Key": "k-1"}], ids=str)
@pytest.mark.parametrize("kind", ["assistant", "thread", "message", "run"])
def test_a_repeated_change_does_not_undo_a_later_one(
    app: App, server: Any, post: Any, client: OpenAI, headers: Any, kind: str
) -> None:
    thread = f"/threads/{app.thread.id}"
    path = {
        "assistant": f"/assistants/{app.assistant.id}",
        "thread": thread,
        "message": f"{thread}/messages/{app.messages.list(app.thread.id).data[0].id}",
        "run": f"{thread}/runs/{app.run().id}",
    }[kind]
    first, second = {"metadata": {"desk": "1"}}, {"metadata": {"desk": "2"}}
    leave(server, path, first, {name: value for name, value in headers.items() if name not in RETRY})
    post(path, second)
    post(path, first, headers)
    found: Any = client.get(path, cast_to=object)
    assert found["metadata"] == second["metadata"]


@pytest.mark.parametrize("headers", [RETRY, {**RETRY, "Idempotency-Key": "k-1"}, {"Idempotency-Key": "k-1"}])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/threads", {"messages": [HELLO]}),
        ("/assistants", {"model": "m"}),
        ("/files", UPLOAD),
        ("/vector_stores", {"name": "notes"}),
    ],
)
def test_what_is_created_twice_is_one_object(
    server: Any, ledger: Ledger, post: Any, client: OpenAI, headers: Any, path: str, body: Any
) -> None:
    first = {name: value for name, value in headers.items() if name != "x-stainless-retry-count"}
    leave(server, path, body, first)
    made = post(path, body, headers)
    listed: Any = client.get(path, cast_to=object)
    assert [each["id"] for each in listed["data"]] == [made["id"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/threads", {}), ("/threads/runs", {"assistant_id": None}), ("/files", UPLOAD), ("/vector_stores", {})],
)
def test_a_user_who_repeats_a_request_never_gets_the_new_thread_or_file_of_another_user(
    app: App, server: Any, ledger: Ledger, post: Any, monkeypatch: pytest.MonkeyPatch, path: str, body: Any
) -> None:
    body = body if path == "/files" else dict.fromkeys(body, app.assistant.id)
    waiting = threading.Event()
    made: list[Any] = []
    GATE.hold(waiting)
    other = threading.Thread(target=lambda: made.append(post(path, body)))
    other.start()
    assert GATE.entered.wait(SECONDS_MAX)
    made.append(post(path, body, RETRY))  # the other user's request is in progress
    waiting.set()
    other.join(SECONDS_MAX)
    with monkeypatch.context() as killed:  # a server that is killed notes no more what it has sent
        killed.setattr(Runner, "sent", lambda *_: None)
        made.append(post(path, body))
    made.append(post(path, body, RETRY))
    assert len({each.get("thread_id", each["id"]) for each in made}) == 4


def forget_notes(ledger: Ledger) -> None:
    """Remove the notes of requests with a key, as is done when they are too old."""
    keys = (getattr(each.event, "idempotency_key", None) for each in ledger.events())
    ledger.journal.served_notes.settle(sent=[each.removeprefix("api:") for each in keys if each])


def test_a_key_names_its_message_also_when_its_note_is_gone(app: App, ledger: Ledger) -> None:
    named = {"Idempotency-Key": "request-8"}
    first = app.messages.create(app.thread.id, role="user", content="x", extra_headers=named)
    forget_notes(ledger)
    assert app.messages.create(app.thread.id, role="user", content="x", extra_headers=named) == first
    forget_notes(ledger)
    with pytest.raises(openai.BadRequestError, match="The Idempotency-Key was used for a request with another"):
        app.messages.create(app.thread.id, role="user", content="y", extra_headers=named)


def test_an_idempotency_key_names_one_message_for_ever(app: App, client: OpenAI, ledger: Ledger) -> None:
    named = {"Idempotency-Key": "request-7"}
    first = app.messages.create(app.thread.id, role="user", content="x", extra_headers=named)
    assert app.messages.create(app.thread.id, role="user", content="x", extra_headers=named) == first
    with pytest.raises(openai.BadRequestError, match="The Idempotency-Key was used for a request with another"):
        app.messages.create(app.thread.id, role="user", content="y", extra_headers=named)
    assert app.said == ["Hello", "x"]


def test_equal_requests_at_the_same_time_with_one_key_are_one(app: App, server: Any, ledger: Ledger) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = f"{server.base_url}/threads/{app.thread.id}/messages"

    def send(_: int) -> str:
        answer = httpx2.post(path, json=HELLO, headers={"Idempotency-Key": "one"}, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(send, range(16)))) == 1
    assert app.said == ["Hello", "Where is my parcel?"]


# Deletions


DELETED = (
    *("assistant", "thread", "message", "completion", "conversation", "response"),
    *("file", "vector_store", "store_file"),
)


def paths(app: App, kind: str) -> tuple[str, str]:
    """Return the path of an object of a kind, and of another one of that kind."""
    client, beta = app.client, app.client.beta
    thread = f"/threads/{app.thread.id}"
    if kind == "assistant":
        return f"/assistants/{app.assistant.id}", f"/assistants/{beta.assistants.create(model='m').id}"
    if kind == "thread":
        return thread, f"/threads/{beta.threads.create().id}"
    if kind == "message":
        other = app.messages.create(app.thread.id, role="user", content="x").id
        return f"{thread}/messages/{app.messages.list(app.thread.id).data[-1].id}", f"{thread}/messages/{other}"
    if kind in ("file", "vector_store", "store_file"):
        files = [client.files.create(file=(f"{name}.txt", b"text"), purpose="assistants").id for name in "ab"]
        stores = [client.vector_stores.create(file_ids=files).id for _ in "ab"]
        if kind == "store_file":
            return f"/vector_stores/{stores[0]}/files/{files[0]}", f"/vector_stores/{stores[0]}/files/{files[1]}"
        first, second = files if kind == "file" else stores
        return f"/{kind}s/{first}", f"/{kind}s/{second}"
    if kind == "conversation":
        return (
            f"/conversations/{client.conversations.create().id}",
            f"/conversations/{client.conversations.create().id}",
        )
    if kind == "response":
        first, second = (client.responses.create(input="Hello").id for _ in "ab")
        return f"/responses/{first}", f"/responses/{second}"
    asked: Any = {"model": "gpt-5.5", "messages": [HELLO], "store": True}
    made = [client.chat.completions.create(**asked).id for _ in range(2)]
    return f"/chat/completions/{made[0]}", f"/chat/completions/{made[1]}"


def delete(server: Any, path: str, headers: Any = None) -> Any:
    return httpx2.delete(f"{server.base_url}{path}", headers=headers or {}, timeout=30)


def test_the_kinds_of_deletions_are_all_that_the_server_has() -> None:
    assert {name for name in HANDLERS if name.startswith("delete_")} == {
        f"delete_{kind}" for kind in (*DELETED, "item")
    }


def test_the_deletion_of_an_item_that_is_sent_again_is_answered_with_its_conversation(app: App, server: Any) -> None:
    items: Any = [{"type": "message", "role": "user", "content": text} for text in ("One", "Two")]
    conversation = app.client.conversations.create(items=items).id
    listed = app.client.conversations.items.list(conversation, order="asc").data
    path = f"/conversations/{conversation}/items/{listed[0].id}"
    leave(server, path, {}, method="DELETE")
    again = delete(server, path, RETRY)
    assert (again.status_code, again.json()["id"]) == (200, conversation)
    assert delete(server, path).status_code == 404
    assert [each.id for each in app.client.conversations.items.list(conversation)] == [listed[1].id]


@pytest.mark.parametrize("headers", [RETRY, {"Idempotency-Key": "k-1"}, {**RETRY, "Idempotency-Key": "k-1"}], ids=str)
@pytest.mark.parametrize("kind", DELETED)
def test_a_deletion_that_is_sent_again_is_answered_as_the_first_one(
    app: App, server: Any, headers: Any, kind: str
) -> None:
    path, other = paths(app, kind)
    first = {name: value for name, value in headers.items() if name not in RETRY}
    leave(server, path, {}, first, method="DELETE")
    again = delete(server, path, headers)
    assert (again.status_code, again.json()["deleted"], again.json()["id"]) == (200, True, path.rpartition("/")[2])
    assert delete(server, path).status_code == 404  # another request
    assert httpx2.get(f"{server.base_url}{path}").status_code == 404
    assert httpx2.get(f"{server.base_url}{other}").status_code == 200
    assert delete(server, other).json()["deleted"]


@pytest.mark.parametrize("kind", DELETED)
def test_a_deletion_whose_answer_arrived_or_that_never_was_is_a_404_again(app: App, server: Any, kind: str) -> None:
    path, other = paths(app, kind)
    assert delete(server, path).json()["deleted"]
    until(lambda: delete(server, path, RETRY).status_code == 404)  # once it is noted that the answer was sent
    assert delete(server, f"{other}0", RETRY).status_code == 404
    assert delete(server, f"{other}0", {"Idempotency-Key": "k-2"}).status_code == 404


@pytest.mark.parametrize("kind", DELETED)
def test_a_deletion_that_is_sent_again_while_the_first_one_is_in_progress_has_its_answer(
    app: App, server: Any, kind: str
) -> None:
    path, _ = paths(app, kind)
    waiting, named, answers = threading.Event(), {"Idempotency-Key": "k-1"}, []
    GATE.hold(waiting)
    first = threading.Thread(target=lambda: answers.append(delete(server, path, named)))
    first.start()
    assert GATE.entered.wait(SECONDS_MAX)
    answers.append(delete(server, path, named))
    waiting.set()
    first.join(SECONDS_MAX)
    assert [each.json().get("deleted") for each in answers] == [True, True]


def test_a_deletion_that_is_sent_again_leaves_a_new_conversation_with_the_same_key(
    app: App, server: Any, ledger: Ledger
) -> None:
    path = f"/threads/{app.thread.id}"
    leave(server, path, {}, method="DELETE")
    ledger.conversation(app.thread.id).append("user", "A new beginning")
    assert delete(server, path, RETRY).json()["deleted"]
    assert app.said == ["A new beginning"]
