"""What the server does with a request before and after its handler: routes, limits, bodies, errors, the log."""

from __future__ import annotations

import gzip
import json
import logging
import re
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from threadledger.adapters.server.calls import Caller, ServedCall
from threadledger.adapters.server.limits import JSON_DEPTH_MAX, JSON_VALUES_MAX, ServerLimits
from threadledger.adapters.wire import ApiError, bodies, validation
from threadledger.adapters.wire.requests import strict_object
from threadledger.domain.errors import (
    ConversationBusy,
    ConversationChanged,
    ConversationNotFound,
    IdempotencyConflict,
    InvalidKey,
    InvalidSettings,
    StoreUnavailable,
    ThreadledgerError,
)

from .speaking import OWN_KEY, Keys, bearer, connected, head, is_closed, read, say

Serve = Callable[..., Any]


def echo(_served: Any, call: ServedCall) -> Any:
    """Return what a handler is given."""
    return {"ids": dict(call.ids), "body": call.body, "query": dict(call.query), "key": call.request_key}


THREADS = {"create_thread": echo, "retrieve_thread": echo, "modify_thread": echo, "list_threads": echo}


def test_the_real_sdk_lists_and_finds_the_models_of_routes_and_of_the_chain(serve: Serve) -> None:
    from threadledger.adapters.server import ServeSettings

    server = serve(settings=ServeSettings(models={"gpt-4o": ("chat:other",)}))
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0, _strict_response_validation=True) as client:
        names = [model.id for model in client.models.list()]
        assert names[0] == "gpt-4o"
        assert len(names) > 1
        assert [client.models.retrieve(name).id for name in names] == names
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve("unknown/model")
    assert refused.value.code == "model_not_found"
    assert refused.value.request_id is not None


def test_a_handler_gets_ids_query_and_known_fields_and_its_json_comes_back(serve: Serve) -> None:
    server = serve(THREADS)
    answered = say(server, "POST", "/v1/threads/thread%5F1%2F2?a=1&a=2", {"metadata": {"a": "ü"}}, Idempotency_Key="k")
    assert (answered.status, answered.json["ids"]) == (200, {"thread_id": "thread_1/2"})
    assert (answered.json["body"], answered.json["query"]) == ({"metadata": {"a": "ü"}}, {"a": "2"})
    assert int(answered.headers["openai-processing-ms"]) >= 1


def test_the_servers_own_route_lists_threads_and_needs_no_beta_header(serve: Serve) -> None:
    assert say(serve(THREADS), "GET", "/v1/threads").status == 200


def test_azure_addresses_lead_to_the_same_handlers_with_the_deployment_as_model(serve: Serve, keys: Keys) -> None:
    server = serve({**THREADS, "create_completion": echo}, keys=keys)
    azure = {"api_key": OWN_KEY}
    assert say(server, "GET", "/openai/threads/t?api-version=1", **azure).json["ids"] == {"thread_id": "t"}
    assert say(server, "GET", "/openai/v1/threads/t", **azure).status == 200
    path = "/openai/deployments/gpt-x/chat/completions?api-version=1"
    assert say(server, "POST", path, {"messages": []}, **azure).json["body"] == {"messages": [], "model": "gpt-x"}
    assert say(server, "GET", "/openai/threads/t", **azure).status == 404
    assert say(server, "GET", "/v1/threads/t", **azure).status == 401


def test_health_needs_no_key_and_no_name(serve: Serve, keys: Keys) -> None:
    server = serve(THREADS, keys=keys, root_path="/ledger")
    for path in ("/health", "/ledger/health"):
        assert say(server, "GET", path, Host="elsewhere.example").json == {"status": "ok"}
    refused = say(server, "POST", "/health", {})
    assert (refused.status, refused.headers["allow"], refused.error["code"]) == (405, "GET", "method_not_supported")


def test_a_root_path_may_be_there_or_removed_by_a_proxy(serve: Serve) -> None:
    server = serve(THREADS, root_path="/ledger/")
    assert server.base_url.endswith("/ledger/v1")
    assert [
        say(server, "GET", f"{root}/v1/threads/t").status for root in ("/ledger", "", "/ledger/ledger", "/ledge")
    ] == [
        200,
        200,
        404,
        404,
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nowhere"),
        ("GET", "/"),
        ("GET", "/v2/threads/t"),
        ("GET", "/v1/assistants"),  # has no handler
        ("GET", "/v1/threads/t%00"),
        ("GET", "/v1/threads/t%0A"),
        ("POST", "/v1/files"),
    ],
)
def test_an_unknown_address_is_404_and_named(serve: Serve, method: str, path: str) -> None:
    refused = say(serve(THREADS), method, path, {} if method == "POST" else None)
    assert (refused.status, refused.error["message"]) == (404, f"Invalid URL ({method} {path})")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/threads/t", "GET, POST"),
        ("PUT", "/v1/threads", "GET, POST"),
        ("OPTIONS", "/v1/threads", "GET, POST"),
        ("BREW", "/v1/threads/t", "GET, POST"),
    ],
)
def test_another_method_is_405_with_those_that_the_path_has(serve: Serve, method: str, path: str, allowed: str) -> None:
    refused = say(serve(THREADS), method, path)
    assert (refused.status, refused.headers["allow"]) == (405, allowed)
    assert refused.error["code"] == "method_not_supported"


# Bodies


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=latin-1",
     "application/jsonl", ""],
)  # fmt: skip
def test_only_json_bodies_are_read(serve: Serve, content_type: str) -> None:
    refused = say(serve(THREADS), "POST", "/v1/threads", b"{}", Content_Type=content_type)
    assert (refused.status, refused.error["code"]) == (415, "unsupported_content_type")


def test_a_compressed_body_and_a_body_without_a_type_are_refused_and_no_body_is_an_empty_one(serve: Serve) -> None:
    server = serve(THREADS)
    assert say(server, "POST", "/v1/threads", gzip.compress(b"{}"), Content_Encoding="gzip").status == 415
    with connected(server) as line:
        line.sendall(head(server, "POST", "/v1/threads", "Content-Length: 2") + b"{}")
        assert read(line).status == 415
    assert say(server, "POST", "/v1/threads").json["body"] == {}
    assert say(server, "POST", "/v1/threads", b"{}", Content_Type='Application/JSON; charset="UTF-8"').status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b'{"metadata": {}, "metadata": {}}',
        b'{"metadata": {"a": 1, "a": 2}}',
        b'{"metadata": NaN}',
        b'{"metadata": -Infinity}',
        b'{"metadata": 1e999}',
        b'{"metadata": ' + b"9" * 5_000 + b"}",
        b'{"metadata": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"metadata": ' + b'{"a":' * 100_000,
        b'{"metadata": ' + b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX + b"}",
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
def test_a_body_that_is_not_one_plain_json_object_is_400(serve: Serve, body: bytes) -> None:
    refused = say(serve(THREADS), "POST", "/v1/threads", body)
    assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")


def test_a_body_may_be_nested_as_deep_as_the_limit(serve: Serve) -> None:
    depth = JSON_DEPTH_MAX - 1
    assert (
        say(serve(THREADS), "POST", "/v1/threads", b'{"metadata": ' + b"[" * depth + b"]" * depth + b"}").status == 200
    )


def test_unknown_fields_are_ignored_also_nested_ones_and_logged_once_for_a_route(serve: Serve, lines: Any) -> None:
    def create(_served: Any, call: ServedCall) -> Any:
        for index, message in enumerate(call.body.get("messages") or []):
            validation.only_known(message, ("role", "content"), f"messages[{index}].")
        bodies.message_attachments({"attachments": [{"file_id": "f", "tools": [{"type": "file_search", "deep": 1}]}]})
        return {"body": call.body}

    server = serve({"create_thread": create, "modify_thread": echo})
    body = {"odd": 1, "metadata": {}, "messages": [{"role": "user", "content": "x", "inner": 1}] * 2}
    for _ in range(2):
        assert sorted(say(server, "POST", "/v1/threads", body).json["body"]) == ["messages", "metadata"]
    assert say(server, "POST", "/v1/threads/t", {"odd": 1}).json["body"] == {}
    assert sorted(record.getMessage() for record in lines.of("is ignored")) == [
        "POST /threads/{thread_id}: the field 'odd' is not known and is ignored",
        "POST /threads: the field 'attachments[].tools[].deep' is not known and is ignored",
        "POST /threads: the field 'messages[].inner' is not known and is ignored",
        "POST /threads: the field 'odd' is not known and is ignored",
    ]


def test_the_simulator_still_refuses_unknown_fields(simulator: Any) -> None:
    with (
        OpenAI(base_url=simulator.base_url, api_key="x", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="Unknown parameter: 'odd'"),
    ):
        client.conversations.create(extra_body={"odd": 1})


# Limits


def test_a_body_above_the_limit_is_413_whether_it_is_announced_or_not(serve: Serve) -> None:
    server = serve(THREADS, limits=ServerLimits(body_bytes=1_000))
    largest = json.dumps({"metadata": "x" * 1_000}).encode()[:-3] + b'"}'
    assert say(server, "POST", "/v1/threads", largest[-1_000:]).status == 400
    assert say(server, "POST", "/v1/threads", b"{" + b" " * 998 + b"}").status == 200
    assert (
        say(server, "POST", "/v1/threads", b"{" + b" " * 999 + b"}").error["message"].startswith("Maximum content size")
    )
    with connected(server) as line:
        line.sendall(
            head(server, "POST", "/v1/threads", "Content-Type: application/json", "Transfer-Encoding: chunked")
        )
        line.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        assert read(line).status == 413
        line.sendall(b"0\r\n\r\n")  # the rest is read, so that the connection can be used again
        line.sendall(head(server, "GET", "/v1/threads/t"))
        assert read(line).status == 200


def test_a_large_body_is_refused_before_it_is_sent_if_the_client_waits_for_that(serve: Serve) -> None:
    server = serve(THREADS, limits=ServerLimits(body_bytes=1_000))
    with connected(server) as line:
        length = "Content-Length: 100000000"
        line.sendall(
            head(server, "POST", "/v1/threads", "Content-Type: application/json", length, "Expect: 100-continue")
        )
        assert read(line).status == 413


@pytest.mark.parametrize("size", [3_000, 60_000, 3_000_000])
def test_headers_above_the_limit_are_431(serve: Serve, size: int, lines: Any) -> None:
    server = serve(THREADS, limits=ServerLimits(header_bytes=2_000))
    with connected(server) as line:
        line.sendall(head(server, "GET", "/v1/threads/t", f"X-Filling: {'x' * size}"))
        refused = read(line)
    assert (refused.status, refused.error["code"]) == (431, "headers_too_large")
    with connected(server) as line:
        line.sendall(head(server, "GET", f"/v1/threads/{'t' * size}"))
        assert read(line).status == 431
    with connected(server) as line:  # without an end
        line.sendall(f"GET / HTTP/1.1\r\nX-Filling: {'x' * size}".encode())
        assert read(line).status == 431
    assert say(server, "GET", "/v1/threads/t").status == 200
    assert lines.statuses(4) == [431, 431, 431, 200]


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/threads HTTP/1.1\r\nHost: x\r\n"],
    ids=["nothing", "half of the headers"],
)
def test_a_connection_that_sends_no_request_in_time_is_closed(serve: Serve, sent: bytes) -> None:
    server = serve(THREADS, limits=ServerLimits(receive_seconds=0.1))
    with connected(server) as line:
        line.sendall(sent)
        if sent:
            assert read(line).error["code"] == "request_timeout"
        assert is_closed(line)


def test_a_body_that_does_not_arrive_in_time_is_408(serve: Serve, lines: Any) -> None:
    server = serve(THREADS, limits=ServerLimits(receive_seconds=0.1))
    with connected(server) as line:
        line.sendall(head(server, "POST", "/v1/threads", "Content-Type: application/json", "Content-Length: 9") + b"{")
        refused = read(line)
        assert (refused.status, refused.error["code"]) == (408, "request_timeout")
        assert is_closed(line)
    assert lines.statuses(1) == [408]


def test_the_time_of_a_request_begins_with_its_own_bytes(serve: Serve) -> None:
    server = serve(THREADS, limits=ServerLimits(receive_seconds=0.1))
    clock = threading.Event()
    with connected(server) as line:
        line.sendall(head(server, "GET", "/v1/threads/t"))
        assert read(line).status == 200
        clock.wait(0.2)  # the connection is idle for longer than a request may take
        line.sendall(head(server, "POST", "/v1/threads", "Content-Type: application/json", "Content-Length: 2") + b"{}")
        assert read(line).status == 200
        clock.wait(0.2)
        line.sendall(b"GET /v1/threads/t HTTP/1.1\r\n")
        assert read(line).error["code"] == "request_timeout"
        assert is_closed(line)


def test_requests_that_are_sent_ahead_are_answered_in_order(serve: Serve) -> None:
    server = serve(THREADS)
    with connected(server) as line:
        line.sendall(b"".join(head(server, "GET", f"/v1/threads/{name}") for name in "abc"))
        text = b""
        while text.count(b'"query"') < 3:
            text += line.recv(1_000)
    assert re.findall(rb'"thread_id": "(.)"', text) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_is_400_in_the_envelope(serve: Serve, sent: bytes, lines: Any) -> None:
    with connected(serve(THREADS)) as line:
        line.sendall(sent)
        refused = read(line)
        assert (refused.status, refused.error["message"]) == (400, "The request is not valid HTTP.")
        assert is_closed(line)
    assert lines.statuses(1) == [400]


def test_requests_of_a_key_above_its_limit_are_429_and_those_of_another_key_are_not(serve: Serve, keys: Keys) -> None:
    entered, leave = threading.Semaphore(0), threading.Event()

    def wait(_served: Any, _call: ServedCall) -> Any:
        entered.release()
        assert leave.wait(30)
        return {}

    server = serve({"create_thread": wait, "retrieve_thread": echo}, keys=keys, limits=ServerLimits(requests_per_key=2))
    own = [threading.Thread(target=say, args=(server, "POST", "/v1/threads"), kwargs=bearer(OWN_KEY)) for _ in range(2)]
    for each in own:
        each.start()
        assert entered.acquire(timeout=30)
    refused = say(server, "GET", "/v1/threads/t", **bearer(OWN_KEY))
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert (refused.error["code"], refused.error["type"]) == ("rate_limit_exceeded", "requests")
    other = next(key for key, value in keys.known.items() if value.name == "other")
    assert say(server, "GET", "/v1/threads/t", **bearer(other)).status == 200
    leave.set()
    for each in own:
        each.join()
    assert say(server, "GET", "/v1/threads/t", **bearer(OWN_KEY)).status == 200


def test_more_requests_than_threads_wait_for_each_other(serve: Serve) -> None:
    server = serve(THREADS, limits=ServerLimits(threads=2))
    answers: list[int] = []
    asking = [
        threading.Thread(target=lambda: answers.append(say(server, "GET", "/v1/threads/t").status)) for _ in range(20)
    ]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert answers == [200] * 20


# Errors


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ApiError(418, "It is a teapot.", code="teapot"), 418, "teapot"),
        (ConversationNotFound("no conversation 'k'"), 404, None),
        (ConversationBusy("a run is open"), 400, None),
        (ConversationChanged("it changed"), 409, None),
        (IdempotencyConflict("the key was used"), 400, "idempotency_key_reused"),
        (InvalidKey("the key is empty"), 400, None),
        (ThreadledgerError("no answer"), 500, "server_error"),
    ],
)
def test_an_error_of_the_domain_is_a_refusal_with_its_sentence(
    serve: Serve, error: Exception, status: int, code: str | None
) -> None:
    def fail(_served: Any, _call: ServedCall) -> Any:
        raise error

    refused = say(serve({"retrieve_thread": fail}), "GET", "/v1/threads/t")
    assert (refused.status, refused.error["code"], refused.error["message"]) == (status, code, str(error))


def test_an_unusable_database_is_503_whose_reason_is_in_the_log_alone(serve: Serve, lines: Any) -> None:
    def fail(_served: Any, _call: ServedCall) -> Any:
        raise StoreUnavailable("postgresql://app@db.internal/x cannot be reached")

    refused = say(serve({"retrieve_thread": fail}), "GET", "/v1/threads/t")
    assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-request-id"] in refused.error["message"]
    assert "db.internal" not in refused.raw.decode()
    assert lines.of("db.internal")


@pytest.mark.parametrize(
    "body", [b'{"metadata": {"a": "\\ud800"}}', b'{"metadata": {"\\udfff": "a"}}', b'{"\\uD83D": 1}']
)
def test_half_of_a_surrogate_pair_anywhere_in_a_body_is_400(serve: Serve, body: bytes) -> None:
    assert say(serve({"create_thread": lambda *_: {}}), "POST", "/v1/threads", body).status == 400


def test_both_halves_of_a_surrogate_pair_are_a_character() -> None:
    assert strict_object(b'{"a": "\\ud83d\\ude00"}', 10, 10) == {"a": "\U0001f600"}


def long_history(messages: int) -> bytes:
    """Return a request for a completion with so many messages: questions with parts, calls and their results."""
    called = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Bern, [CH]"}'},
    }
    parts = [
        {"type": "text", "text": 'A "question", {1}'},
        {"type": "image_url", "image_url": {"url": "https://a.example/"}},
    ]
    turn = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, [dry]"},
        {"role": "assistant", "content": "It is sunny \\"},
    ]
    return json.dumps({"messages": turn * (messages // 4)}).encode()


def nested(values: int) -> bytes:
    """Return an object with an array of so many values, itself not counted."""
    return b'{"metadata": [' + b",".join([b"[]"] * (values // 2)) + b"]}"


TEXT_ALONE = json.dumps({"metadata": {"a": 'a, [b], {c} "d" \\ e' * (JSON_VALUES_MAX // 2)}}).encode()
"""A body with far more commas and brackets than values, all of them in one text."""

BODIES = {
    "2,000 messages": (long_history(2_000), 200),
    "a long text": (TEXT_ALONE, 200),
    "as many values as it may have": (nested(JSON_VALUES_MAX - 2), 200),
    "two more": (nested(JSON_VALUES_MAX), 400),
    "many objects": (b'{"metadata": [' + b",".join([b'{"a":{}}'] * JSON_VALUES_MAX) + b"]}", 400),
    "many texts": (b'{"metadata": [' + b",".join([b'","'] * (JSON_VALUES_MAX + 1)) + b"]}", 400),
    "many numbers": (b'{"metadata": [' + b",".join([b"1"] * (JSON_VALUES_MAX + 1)) + b"]}", 400),
    "a text that ends with a backslash": (b'{"metadata": ["\\\\",' + b",".join([b"[]"] * JSON_VALUES_MAX) + b"]}", 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_with_more_values_than_the_limit_is_400_before_it_is_parsed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    body, status = BODIES[name]
    server = serve({"create_thread": lambda *_: {}, "create_completion": lambda *_: {}})
    parsed: list[int] = []
    loads = json.loads

    def counted(text: Any, **options: Any) -> Any:
        parsed.append(len(text))
        return loads(text, **options)

    monkeypatch.setattr("threadledger.adapters.wire.requests.json.loads", counted)
    answered = say(server, "POST", "/v1/chat/completions" if b"messages" in body else "/v1/threads", body)
    assert (answered.status, len(body) in parsed) == (status, status == 200)
    monkeypatch.undo()
    if status == 400:
        assert answered.error["code"] == "too_many_values"
        assert f"more than {JSON_VALUES_MAX:,} values" in answered.error["message"]


@given(
    st.recursive(
        st.none() | st.integers(0, 9) | st.text(st.sampled_from('a,[{"\\')),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('a,[{"\\'), max_size=3), inner),
    ),
    st.integers(1, 7),
)
def test_separators_are_counted_outside_of_texts_wherever_a_body_is_cut_for_that(value: Any, at_once: int) -> None:
    def values_in(each: Any) -> int:
        """Return the commas, brackets and braces of a value as JSON."""
        inner = list(each.values() if isinstance(each, dict) else each) if isinstance(each, dict | list) else None
        return 0 if inner is None else 1 + max(len(inner) - 1, 0) + sum(map(values_in, inner))

    body = {"a": value}
    raw, count = json.dumps(body).encode(), values_in(body)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("threadledger.adapters.wire.requests.COUNTED_AT_ONCE_BYTES", at_once)
        assert strict_object(raw, 100, count) == body
        with pytest.raises(ApiError, match="more than"):
            strict_object(raw, 100, count - 1)


@pytest.mark.parametrize("name", ["after", "before", "run_id"])
def test_a_control_character_in_a_query_is_400(serve: Serve, name: str) -> None:
    assert say(serve(THREADS), "GET", f"/v1/threads/t?{name}=%00").status == 400


@pytest.mark.parametrize("error", [KeyError("planted text"), InvalidSettings("planted text"), RecursionError()])
def test_an_unexpected_error_is_500_with_the_id_under_which_the_log_has_its_place(
    serve: Serve, error: Exception, lines: Any
) -> None:
    def fail_here(_served: Any, _call: ServedCall) -> Any:
        raise error

    refused = say(serve({"retrieve_thread": fail_here}), "GET", "/v1/threads/t")
    assert (refused.status, refused.error["type"], refused.error["code"]) == (500, "server_error", "server_error")
    request_id = refused.headers["x-request-id"]
    assert request_id in refused.error["message"]
    assert "planted text" not in refused.raw.decode()
    (record,) = lines.of(f"{request_id} failed")
    assert "in fail_here" in logging.Formatter().format(record)
    assert type(error).__name__ in logging.Formatter().format(record)


def test_a_secret_in_an_errors_sentence_is_not_shown(serve: Serve) -> None:
    def fail(_served: Any, _call: ServedCall) -> Any:
        raise InvalidKey("the key sk-planted0123456789abcdef0123456789 cannot be used")

    refused = say(serve({"retrieve_thread": fail}), "GET", "/v1/threads/t")
    assert refused.error["message"] == "the key [redacted] cannot be used"


def test_an_answer_that_is_not_json_is_500(serve: Serve) -> None:
    assert say(serve({"retrieve_thread": lambda *_: {"a": object()}}), "GET", "/v1/threads/t").status == 500


def test_a_lookup_of_keys_that_fails_is_503_and_no_handler_is_called(serve: Serve) -> None:
    class Broken(Keys):
        def find(self, key: str) -> Any:
            raise StoreUnavailable("the database is locked")

    refused = say(serve(THREADS, keys=Broken()), "GET", "/v1/threads/t", **bearer(OWN_KEY))
    assert (refused.status, refused.error["code"]) == (503, "store_unavailable")


# The log


def test_a_request_is_one_line_with_its_facts_and_nothing_secret(serve: Serve, keys: Keys, lines: Any) -> None:
    def fail(_served: Any, call: ServedCall) -> Any:
        raise ValueError(f"{call.query} {call.body} {call.request_headers}")

    server = serve({**THREADS, "create_thread": fail}, keys=keys)
    answers = [
        say(server, "GET", "/v1/threads/t?planted-query=1", X_Secret="planted-header", **bearer(OWN_KEY)),
        say(
            server,
            "POST",
            "/v1/threads?a=planted",
            {"metadata": {"a": "planted-body"}},
            Cookie="planted",
            **bearer(OWN_KEY),
        ),
        say(server, "GET", "/v1/threads/t", **bearer("planted-wrong-key")),
        say(server, "GET", "/v1/planted-path", **bearer(OWN_KEY)),
        say(server, "PLANTED", "/v1/threads", **bearer(OWN_KEY)),
    ]
    lines.statuses(len(answers))
    found = [
        [record for record in lines.of(each.headers["x-request-id"]) if "bytes" in vars(record)] for each in answers
    ]
    facts = [
        {name: getattr(record, name) for name in ("method", "path", "status", "key_name", "bytes")}
        for (record,) in found
    ]
    assert facts == [
        {
            "method": "GET",
            "path": "/threads/{thread_id}",
            "status": 200,
            "key_name": "own",
            "bytes": len(answers[0].raw),
        },
        {"method": "POST", "path": "/threads", "status": 500, "key_name": "own", "bytes": len(answers[1].raw)},
        {"method": "GET", "path": "-", "status": 401, "key_name": None, "bytes": len(answers[2].raw)},
        {"method": "GET", "path": "-", "status": 404, "key_name": "own", "bytes": len(answers[3].raw)},
        {"method": "?", "path": "-", "status": 405, "key_name": "own", "bytes": len(answers[4].raw)},
    ]
    message = found[0][0].getMessage()
    assert message.startswith("GET /threads/{thread_id} 200, key own, ")
    assert "ms" in message
    assert "planted" not in lines.text.lower()


def test_a_handler_does_not_see_the_credentials_of_its_request(serve: Serve, keys: Keys) -> None:
    server = serve({"retrieve_thread": lambda _, call: dict(call.request_headers)}, keys=keys)
    seen = say(server, "GET", "/v1/threads/t", X_Conversation="c", Cookie="x", **bearer(OWN_KEY)).json
    assert seen["x-conversation"] == "c"
    assert {"authorization", "cookie"}.isdisjoint(seen)


# Names of requests


def test_a_request_is_named_by_its_idempotency_key_and_its_tenant_or_at_random(serve: Serve, keys: Keys) -> None:
    server = serve(THREADS, keys=keys)
    other = next(key for key, value in keys.known.items() if value.name == "other")

    def name(key: str, **headers: str) -> str:
        return str(say(server, "POST", "/v1/threads", {}, **bearer(key), **headers).json["key"])

    given = {"Idempotency_Key": "a key"}
    assert name(OWN_KEY, **given) == name(OWN_KEY, **given)
    assert len({name(OWN_KEY, **given), name(other, **given), name(OWN_KEY), name(OWN_KEY), name(other)}) == 5
    assert say(server, "GET", "/v1/threads/t", **bearer(OWN_KEY), **given).json["key"] == ""


KEYS_GIVEN = {
    "k": 200,
    "k" * 255: 200,
    "k" * 256: 400,
    "": 400,
    "a\tb": 400,
    "\x85": 400,  # a control character
    "Übergabe 7": 200,
    "ü" * 255: 200,  # the limit is one of characters, not of bytes
}


@pytest.mark.parametrize("given", KEYS_GIVEN, ids=ascii)
def test_an_idempotency_key_has_one_limit_with_and_without_a_journal(
    serve: Serve, serving: Callable[..., Any], given: str
) -> None:
    """Servers with and without stored keys check it by one function."""
    for server in (serve(THREADS), serving()):
        answered = say(server, "POST", "/v1/threads", {}, Idempotency_Key=given.encode())
        assert answered.status == KEYS_GIVEN[given]
        if answered.status == 400:
            assert answered.error["message"].startswith("Invalid 'Idempotency-Key': give 1 to 255 printable characters")


def test_an_idempotency_key_that_is_no_utf_8_is_refused_and_the_stored_hash_is_that_of_its_bytes(serve: Serve) -> None:
    server = serve(THREADS)
    assert say(server, "POST", "/v1/threads", {}, Idempotency_Key=b"caf\xe9").status == 400
    made = say(server, "POST", "/v1/threads", {}, Idempotency_Key="é".encode()).json["key"]
    assert made == sha256("\n\xc3\xa9".encode()).hexdigest()  # what earlier versions have stored


def test_the_actor_of_a_caller_is_its_key(serve: Serve, keys: Keys, bare_ledger: Any) -> None:
    def append(served: Any, call: ServedCall) -> Any:
        served.ledger_of(call.caller).conversation("k").append("user", "Hello.")
        return {}

    assert say(serve({"create_thread": append}, keys=keys), "POST", "/v1/threads", **bearer(OWN_KEY)).status == 200
    assert {event.actor for event in bare_ledger.events()} == {Caller("own").actor}
