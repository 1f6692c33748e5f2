"""Streams, clients that leave, the hooks around a request, and how a server stops."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.server.app import Hooks, name_request
from threadledger.adapters.server.calls import ServedCall
from threadledger.adapters.server.limits import ServerLimits
from threadledger.adapters.wire import ApiError, EventStream, sse, validation
from threadledger.domain.errors import StoreUnavailable

from .speaking import (
    OTHER_KEY,
    OWN_KEY,
    SECONDS_MAX,
    Answered,
    Keys,
    accepts,
    bearer,
    connected,
    head,
    read,
    say,
    until,
)

Serve = Callable[..., Any]
COMPLETIONS = "/v1/chat/completions"
BODY = b'{"stream": true}'


def chunk(text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return sse.frame({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [delta]})


class Streaming:
    """A handler of completions whose frames are released one by one, and what happened to them."""

    def __init__(self, *, frames: int = 3, error: Exception | None = None) -> None:
        self.asked = threading.Semaphore(0)
        self.released = threading.Semaphore(0)
        self.created = threading.Semaphore(0)
        self.abandoned: list[str] = []
        self.threads: list[threading.Thread] = []
        self.gone: threading.Event | None = None
        self._frames, self._error = frames, error

    def __call__(self, _served: Any, call: ServedCall) -> Any:
        self.threads.append(threading.current_thread())
        if not call.wants_stream:
            return {"whole": True}
        self.gone = call.gone
        return EventStream("chat", self._create(), self._abandon)

    def release(self, count: int) -> None:
        self.released.release(count)

    def _create(self) -> Iterator[bytes]:
        for number in range(self._frames):
            self.asked.release()
            assert self.released.acquire(timeout=SECONDS_MAX)
            self.threads.append(threading.current_thread())
            self.created.release()
            yield chunk(str(number))
        if self._error is not None:
            raise self._error
        yield sse.frame(sse.DONE)

    def _abandon(self, status: str) -> None:
        self.threads.append(threading.current_thread())
        self.abandoned.append(status)


class Noted:
    """Hooks that keep what they were called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.hooks = Hooks(self._begin, lambda call: self._note("sent", call), lambda call: self._note("unsent", call))

    def _begin(self, call: ServedCall, incoming: Any) -> None:
        name_request(call, incoming)
        self._note(incoming.body.decode(), call)

    def _note(self, what: str, call: ServedCall) -> None:
        assert call.request_key
        self.calls.append((what, call.route.name if call.route else ""))

    def ends(self, count: int) -> list[str]:
        """Return what was noted at the end of requests, once there are `count`."""
        until(lambda: len(self.calls) >= 2 * count)
        return [what for what, _ in self.calls if what in ("sent", "unsent")]


@pytest.fixture
def noted() -> Noted:
    return Noted()


def post(server: Any, *lines: str) -> bytes:
    more = ("Content-Type: application/json", f"Content-Length: {len(BODY)}", *lines)
    return head(server, "POST", COMPLETIONS, *more) + BODY


def received(line: socket.socket, part: bytes) -> bytes:
    """Read until a part has arrived."""
    text = b""
    while part not in text:
        more = line.recv(10_000)
        assert more, text
        text += more
    return text


def leave(line: socket.socket) -> None:
    """Close a connection as a process does that is killed."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def test_the_real_sdk_reads_a_stream_whose_frames_are_created_as_they_are_sent(serve: Serve, noted: Noted) -> None:
    streaming = Streaming()
    server = serve({"create_completion": streaming}, hooks=noted.hooks)
    with (
        OpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client,
        client.chat.completions.create(model="m", messages=[], stream=True) as stream,
    ):
        texts = []
        for number in range(3):
            assert not streaming.created.acquire(blocking=False)
            streaming.release(1)
            texts.append(next(stream).choices[0].delta.content)
            assert streaming.created.acquire(timeout=SECONDS_MAX), number
        assert list(stream) == []
    assert texts == ["0", "1", "2"]
    assert len(set(streaming.threads)) == 1
    assert threading.main_thread() not in streaming.threads
    assert (noted.ends(1), streaming.abandoned) == (["sent"], [])


def test_a_stream_has_its_headers_and_those_of_its_handler(serve: Serve) -> None:
    def stream(_served: Any, call: ServedCall) -> Any:
        call.headers["openai-poll-after-ms"] = "5"
        return EventStream("chat", iter([chunk("a")]))

    answered = say(serve({"create_completion": stream}), "POST", COMPLETIONS, {"stream": True})
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answered.headers["cache-control"], answered.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert (answered.headers["openai-poll-after-ms"], answered.headers["x-request-id"][:4]) == ("5", "req_")
    assert answered.raw == chunk("a")


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_stream_whose_client_leaves_is_abandoned(serve: Serve, noted: Noted, lines: Any, is_killed: bool) -> None:
    streaming = Streaming(frames=1_000)
    server = serve({"create_completion": streaming}, hooks=noted.hooks)
    with connected(server) as line:
        line.sendall(post(server))
        streaming.release(1)
        received(line, chunk("0"))
        for _ in range(2):  # its thread waits for the next frame
            assert streaming.asked.acquire(timeout=SECONDS_MAX)
        leave(line) if is_killed else line.close()
    assert streaming.gone is not None
    assert streaming.gone.wait(SECONDS_MAX)
    assert streaming.abandoned == []
    streaming.release(1)
    assert noted.ends(1) == ["unsent"]
    assert streaming.abandoned == ["cancelled"]
    assert len(set(streaming.threads)) == 1
    assert lines.statuses(1) == [200]


def test_a_client_may_leave_as_soon_as_it_has_the_last_event(serve: Serve, noted: Noted) -> None:
    after: list[bool] = []
    left = threading.Event()

    def stream(_served: Any, call: ServedCall) -> Any:
        def frames() -> Iterator[bytes]:
            yield sse.frame(sse.DONE, "done")
            left.wait(SECONDS_MAX)
            after.append(call.gone.wait(0.1))

        return EventStream("assistants", frames(), lambda status: after.append(True))

    server = serve({"create_completion": stream}, hooks=noted.hooks)
    with connected(server) as line:
        line.sendall(post(server))
        received(line, b"[DONE]")
    left.set()
    assert (noted.ends(1), after) == (["sent"], [False])


def test_a_client_that_reads_nothing_is_taken_for_gone(serve: Serve, noted: Noted) -> None:
    def stream(_served: Any, _call: ServedCall) -> Any:
        return EventStream("chat", (chunk("x" * 1_000_000) for _ in range(1_000)), abandoned.append)

    abandoned: list[str] = []
    server = serve({"create_completion": stream}, hooks=noted.hooks, limits=ServerLimits(send_seconds=0.1))
    with connected(server) as line:
        line.sendall(post(server))
        assert noted.ends(1) == ["unsent"]
    assert abandoned == ["cancelled"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ApiError(400, "It is wrong.", code="wrong"), "wrong", "It is wrong."),
        (StoreUnavailable("planted.db is locked"), "store_unavailable", None),
        (KeyError("planted"), "server_error", None),
    ],
)
def test_an_error_within_a_stream_is_its_last_event(
    serve: Serve, noted: Noted, lines: Any, error: Exception, code: str, message: str | None
) -> None:
    streaming = Streaming(frames=1, error=error)
    server = serve({"create_completion": streaming}, hooks=noted.hooks)
    streaming.release(1)
    answered = say(server, "POST", COMPLETIONS, {"stream": True})
    first, last = answered.raw.decode().strip().split("\n\n")
    shown = json.loads(last.removeprefix("data: "))["error"]
    assert (first, shown["code"]) == (chunk("0").decode().strip(), code)
    assert shown["message"] == (message or shown["message"])
    assert (noted.ends(1), streaming.abandoned) == (["unsent"], ["failed"])
    with OpenAI(base_url=server.base_url, api_key="x", max_retries=0) as client, pytest.raises(openai.APIError):
        streaming.release(1)
        list(client.chat.completions.create(model="m", messages=[], stream=True))
    assert "planted" not in shown["message"]
    assert "planted" not in lines.text.replace('KeyError("planted")', "").replace("planted.db is locked", "")


def test_a_refusal_before_the_first_frame_is_a_plain_one(serve: Serve) -> None:
    def refuse(_served: Any, _call: ServedCall) -> Any:
        raise ApiError(404, "No thread found with id 'thread_x'.")

    refused = say(serve({"create_completion": refuse}), "POST", COMPLETIONS, {"stream": True})
    assert (refused.status, refused.error["message"]) == (404, "No thread found with id 'thread_x'.")


def test_fields_that_a_stream_finds_unknown_are_ignored(serve: Serve, lines: Any) -> None:
    def stream(_served: Any, call: ServedCall) -> Any:
        def frames() -> Iterator[bytes]:
            yield chunk("a")
            validation.only_known({"late": 1}, ())

        return EventStream("chat", frames())

    server = serve({"create_completion": stream})
    assert say(server, "POST", COMPLETIONS, {"stream": True}).raw == chunk("a")
    assert len(lines.of("the field 'late' is not known")) == 1


def test_streams_of_a_key_above_its_limit_are_429_and_its_other_requests_are_not(serve: Serve, keys: Keys) -> None:
    streaming = Streaming()
    server = serve({"create_completion": streaming}, keys=keys, limits=ServerLimits(streams_per_key=1))
    answers: list[Answered] = []
    first = threading.Thread(
        target=lambda: answers.append(say(server, "POST", COMPLETIONS, {"stream": True}, **bearer(OWN_KEY)))
    )
    first.start()
    until(lambda: streaming.gone is not None)
    refused = say(server, "POST", COMPLETIONS, {"stream": True}, **bearer(OWN_KEY))
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert "streams in progress: limit 1" in refused.error["message"]
    assert say(server, "POST", COMPLETIONS, {}, **bearer(OWN_KEY)).status == 200
    streaming.release(3)
    first.join()
    streaming.release(6)
    for key in (OWN_KEY, OTHER_KEY):  # the first stream's slot is free a moment after its client has the end
        until(lambda key=key: say(server, "POST", COMPLETIONS, {"stream": True}, **bearer(key)).status == 200)
    assert [each.status for each in answers] == [200]


# Hooks


def test_a_delivered_answer_and_a_delivered_refusal_are_sent_and_a_500_is_not(serve: Serve, noted: Noted) -> None:
    def create(_served: Any, call: ServedCall) -> Any:
        match call.body.get("metadata"):
            case "refuse":
                raise ApiError(400, "No.")
            case "fail":
                raise KeyError
        return {}

    server = serve({"create_thread": create, "delete_thread": create, "retrieve_thread": create}, hooks=noted.hooks)
    for count, what in enumerate(("answer", "refuse", "fail"), 1):
        say(server, "POST", "/v1/threads", {"metadata": what})
        noted.ends(count)
    say(server, "GET", "/v1/threads/t")
    say(server, "DELETE", "/v1/threads/t")
    assert noted.ends(4) == ["sent", "sent", "unsent", "sent"]
    assert noted.calls[0] == ('{"metadata": "answer"}', "POST /threads")


def test_a_request_that_is_refused_before_its_handler_has_no_hooks(serve: Serve, noted: Noted) -> None:
    server = serve({"create_thread": lambda *_: {}}, hooks=noted.hooks)
    assert say(server, "POST", "/v1/threads", b"{").status == 400
    assert say(server, "POST", "/v1/threads", b"{}", Content_Type="text/plain").status == 415
    assert noted.calls == []


def test_an_answer_whose_client_left_meanwhile_is_unsent(serve: Serve, noted: Noted, lines: Any) -> None:
    done = threading.Event()

    def create(_served: Any, call: ServedCall) -> Any:
        assert call.gone.wait(SECONDS_MAX)
        done.set()
        return {}

    server = serve({"create_completion": create}, hooks=noted.hooks)
    with connected(server) as line:
        line.sendall(post(server))
        until(lambda: noted.calls)
    assert done.wait(SECONDS_MAX)
    assert noted.ends(1) == ["unsent"]
    assert lines.statuses(1) == [499]


def test_a_whole_answer_that_the_client_does_not_read_to_its_end_is_unsent(serve: Serve, noted: Noted) -> None:
    server = serve({"create_completion": lambda *_: {"text": "x" * 50_000_000}}, hooks=noted.hooks)
    with connected(server) as line:
        line.sendall(post(server))
        received(line, b"xxxx")
        leave(line)
    assert noted.ends(1) == ["unsent"]
    assert say(server, "POST", COMPLETIONS, {}).status == 200
    assert noted.ends(2) == ["unsent", "sent"]


def test_an_upload_that_breaks_off_reaches_no_handler(serve: Serve, noted: Noted, lines: Any) -> None:
    server = serve({"create_completion": lambda *_: {}}, hooks=noted.hooks)
    with connected(server) as line:
        line.sendall(post(server)[:-1])
    assert lines.statuses(1) == [499]
    assert noted.calls == []


def test_a_hook_that_fails_is_logged_and_changes_no_answer(serve: Serve, lines: Any) -> None:
    def fail(_call: ServedCall) -> None:
        raise OSError("planted")

    server = serve({"create_thread": lambda *_: {}}, hooks=Hooks(sent=fail))
    assert say(server, "POST", "/v1/threads", {}).status == 200
    until(lambda: lines.of("was not noted"))


# Stopping


class Waiting:
    """A handler that answers when it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, _served: Any, _call: ServedCall) -> Any:
        self.entered.set()
        assert self.go.wait(SECONDS_MAX)
        return {"done": True}


class Runner:
    """A part that runs in the background, and what was done to it."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def start(self) -> None:
        self.did.append("start")

    def stop(self) -> None:
        self.did.append("stop")


def test_stop_lets_a_request_finish_then_hands_over_and_leaves_no_thread(serve: Serve, noted: Noted) -> None:
    before = set(threading.enumerate())
    waiting, runner = Waiting(), Runner()
    server = serve(
        {"create_thread": waiting},
        hooks=noted.hooks,
        background=[runner],
        hand_over=lambda: runner.did.append("hand over"),
    )
    answers: list[Answered] = []
    asking = threading.Thread(target=lambda: answers.append(say(server, "POST", "/v1/threads", {})))
    asking.start()
    assert waiting.entered.wait(SECONDS_MAX)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: not accepts(server))
    assert runner.did == ["start"]
    waiting.go.set()
    for each in (asking, stopping):
        each.join()
    assert [(each.status, each.json) for each in answers] == [(200, {"done": True})]
    assert runner.did == ["start", "hand over", "stop"]
    assert noted.ends(1) == ["sent"]
    until(lambda: not set(threading.enumerate()) - before)


def test_stop_ends_what_takes_too_long(serve: Serve, noted: Noted) -> None:
    waiting, streaming = Waiting(), Streaming()
    server = serve(
        {"create_thread": waiting, "create_completion": streaming},
        hooks=noted.hooks,
        limits=ServerLimits(stop_grace_seconds=0.05),
    )
    with connected(server) as whole, connected(server) as stream:
        whole.sendall(head(server, "POST", "/v1/threads"))
        stream.sendall(post(server))
        streaming.release(1)
        received(stream, chunk("0"))
        assert waiting.entered.wait(SECONDS_MAX)
        server.stop()
        refused = read(whole)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"[DONE]" not in stream.recv(100_000)
    waiting.go.set()
    streaming.release(1)
    assert noted.ends(2) == ["unsent", "unsent"]
    assert streaming.abandoned == ["cancelled"]


def test_an_idle_connection_does_not_delay_the_end(serve: Serve) -> None:
    server = serve({"retrieve_thread": lambda *_: {}}, limits=ServerLimits(stop_grace_seconds=SECONDS_MAX))
    with connected(server) as line:
        line.sendall(head(server, "GET", "/v1/threads/t"))
        assert read(line).status == 200
        server.stop()
        assert line.recv(1) == b""


def test_a_part_that_does_not_start_stops_those_before_it_and_frees_the_port(serve: Serve) -> None:
    class Broken(Runner):
        def start(self) -> None:
            raise OSError("it does not start")

    runner, server = Runner(), serve({})
    server.stop()
    server._background = [runner, Broken()]
    for _ in range(2):
        with pytest.raises(OSError, match="does not start"):
            server.start()
    assert runner.did == ["start", "stop"] * 2


def test_a_taken_port_is_refused_in_one_sentence(serve: Serve, bare_ledger: Any) -> None:
    from threadledger.adapters.server import Served, Server, ServeSettings

    taken = serve({})
    with pytest.raises(OSError, match=rf"the server cannot listen on 127.0.0.1 port {taken.port}: "):
        Server(Served(bare_ledger, ServeSettings(), taken.served.runner), {}, port=taken.port).start()
