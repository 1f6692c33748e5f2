"""Serve Chat Completions and nothing else, as a small self-hosted model does. It shares no code with the served API."""

from __future__ import annotations

import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Self

Json = dict[str, Any]

PATH = "/v1/chat/completions"
LOOK_SECONDS = 0.01
"""Interval at which a held request looks whether its client has left, in seconds."""

HELD_SECONDS_MAX = 60.0
"""How long a held request waits at most, so that a failing test ends."""


class ChatOnly:
    """Answer with an echo, on a loopback socket of its own; every other path answers 404.

    `requests` are the bodies of the requests for completions, oldest first, with those that failed, and `other_paths` what
    was asked for besides. With `calls_functions`, a request that offers functions and ends with the user's message is
    answered with a call of the first one. `says_json` answers requests for JSON instead of the echo; `reason` is why answers
    end, and `thinks` their reasoning. One that `breaks_off` closes the connection in the middle of a stream.
    """

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.other_paths: list[str] = []
        self.calls_functions = False
        self.arguments = '{"place": "Lyon"}'
        self.says_json: str | None = None
        self.reason = "stop"
        self.thinks = ""
        self.breaks_off = False
        self.left = threading.Event()
        """Set when a client has closed its connection while its request was held."""
        self._failures: list[int] = []
        self._free = 0
        self._released = threading.Event()
        self._released.set()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._server = _Listening(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        """Return the base URL for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def fail(self, *statuses: int) -> None:
        """Refuse the next requests with these statuses."""
        with self._lock:
            self._failures += statuses

    @contextmanager
    def held(self, free: int = 0) -> Iterator[None]:
        """Let the requests that arrive wait until the context ends; the first half of a stream is sent before.

        The next `free` ones do not wait.
        """
        self._free = free
        self._released.clear()
        try:
            yield
        finally:
            self._released.set()

    def wait_for(self, number: int) -> None:
        """Wait until so many requests have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= number, HELD_SECONDS_MAX)

    def wait_until_left(self) -> None:
        """Wait until a client has closed its connection while its request is held."""
        assert self.left.wait(HELD_SECONDS_MAX)

    def answer_to(self, body: Json) -> tuple[Json, str]:
        """Return the message that answers a request, and why it ends."""
        last = body["messages"][-1]
        said = last.get("content") or ""
        text = said if isinstance(said, str) else "".join(part.get("text", "") for part in said)
        offered = [tool["function"]["name"] for tool in body.get("tools") or [] if tool["type"] == "function"]
        if self.calls_functions and offered and last["role"] == "user":
            function = {"name": offered[0], "arguments": self.arguments}
            call = {"id": f"call_{next(self._numbers)}", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
        speaker = "The function" if last["role"] == "tool" else "You"
        own = self.says_json if body.get("response_format") else None
        message = {"role": "assistant", "content": own or f"{speaker} said: {text}"}
        return message | ({"reasoning_content": self.thinks} if self.thinks else {}), self.reason

    def arrive(self, body: Json) -> int | None:
        """Note a request; return the status with which it fails, or None."""
        with self._arrived:
            self.requests.append(body)
            self._arrived.notify_all()
            return self._failures.pop(0) if self._failures else None

    def wait(self, connection: socket.socket) -> None:
        """Wait until requests are not held, or the client has closed its connection."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
        end = time.monotonic() + HELD_SECONDS_MAX
        while not self._released.wait(LOOK_SECONDS) and time.monotonic() < end:
            if select.select([connection], [], [], 0)[0] and not connection.recv(1, socket.MSG_PEEK):
                self.left.set()
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: ChatOnly) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.upstream = upstream

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Listening

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        upstream = self.server.upstream
        if self.path != PATH:
            self._not_found()
            return
        body = json.loads(raw)
        status = upstream.arrive(body)
        if status is not None:
            self._send(status, {"error": {"message": f"failed with {status}", "type": "server_error", "code": None}})
            return
        message, reason = upstream.answer_to(body)
        made = {"id": f"chatcmpl-{len(upstream.requests)}", "created": 1_700_000_000, "model": body["model"]}
        usage = {"prompt_tokens": len(body["messages"]), "completion_tokens": 3, "total_tokens": 3}
        usage["total_tokens"] += usage["prompt_tokens"]
        if body.get("stream"):
            wants_usage = (body.get("stream_options") or {}).get("include_usage")
            self._stream(made, message, reason, usage if wants_usage else None)
            return
        upstream.wait(self.connection)
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        self._send(200, made | {"object": "chat.completion", "choices": [choice], "usage": usage})

    def _stream(self, made: Json, message: Json, reason: str, usage: Json | None) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        deltas = [{"role": "assistant", "content": ""}, *_deltas(message)]
        for number, delta in enumerate(deltas):
            if number == len(deltas) // 2:
                self.wfile.flush()
                self.server.upstream.wait(self.connection)
                if self.server.upstream.breaks_off:
                    self.close_connection = True
                    return
            self._event(made | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        self._event(made | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if usage is not None:
            self._event(made | {"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, value: Json) -> None:
        self._chunk(b"data: " + json.dumps({"object": "chat.completion.chunk"} | value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _not_found(self) -> None:
        self.server.upstream.other_paths.append(f"{self.command} {self.path}")
        self._send(404, {"error": {"message": f"no {self.command} {self.path}", "type": "invalid_request_error"}})

    do_GET = do_PUT = do_DELETE = do_HEAD = do_PATCH = _not_found

    def _send(self, status: int, value: Json) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_args: Any) -> None:
        """Log nothing."""


def _deltas(message: Json) -> Iterator[Json]:
    """Yield a message word by word, its reasoning first and a refusal last; the arguments of a call in two pieces."""
    for piece in re.findall(r"\s*\S+|\s+$", message.get("reasoning_content") or ""):
        yield {"reasoning_content": piece}
    for piece in re.findall(r"\s*\S+|\s+$", message["content"] or ""):
        yield {"content": piece}
    for piece in re.findall(r"\s*\S+|\s+$", message.get("refusal") or ""):
        yield {"refusal": piece}
    for index, call in enumerate(message.get("tool_calls", ())):
        function, middle = call["function"], len(call["function"]["arguments"]) // 2
        begun = {"name": function["name"], "arguments": function["arguments"][:middle]}
        yield {"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": begun}]}
        yield {"tool_calls": [{"index": index, "function": {"arguments": function["arguments"][middle:]}}]}
