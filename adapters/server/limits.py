"""Define the limits of the server. All are chosen by us, unless a source is given."""

from __future__ import annotations

from dataclasses import dataclass

BODY_MAX_BYTES = 67_108_864  # 64 MiB
SMALL_BODY_BYTES = 65_536  # a body up to this size is read before the key of its request is checked
FORM_EXTRA_BYTES = 131_072  # of an upload besides its file: fields, headers of parts, delimiters
HEADERS_MAX_BYTES = 32_768  # request line and headers; common servers take 8 to 64 KiB
RECEIVE_SECONDS = 60.0  # to send the headers and the body of a request
SEND_SECONDS = 60.0  # in which a client has to accept more of an answer
KEEP_ALIVE_SECONDS = 75.0  # of a connection without a request; proxies close theirs after 60 s
LINGER_SECONDS = 2.0  # in which a client can read the refusal of what it is still sending

REQUESTS_PER_KEY_MAX = 256  # in progress
STREAMS_PER_KEY_MAX = 64  # in progress
EXCHANGES_PER_KEY_MAX = 256  # that run at a time; as many as the requests of a key
EXCHANGES_MAX = 512  # of all keys that run at a time: so one key takes at most a half
HANDLER_THREADS_MAX = 1_024  # a request in progress takes one
WAITING_REQUESTS_MAX = 896  # chat completions and streams of all keys; the other threads are for what does not wait

RESPONSE_SECONDS = 600.0  # of a response whose client waits for it
RESPONSE_WINDOWS = {"soonest": 3_600.0, "2h": 7_200.0, "8h": 28_800.0}
"""Time limit of a response in the background, in seconds, by the window that its request names."""

JSON_DEPTH_MAX = 100  # levels of objects and arrays in a body
JSON_VALUES_MAX = (
    100_000  # in a body; 2,000 messages with parts and calls have about 30,000. No other thread runs while it is parsed
)
IDEMPOTENCY_KEY_MAX_CHARS = 255
UNKNOWN_FIELDS_NOTED_MAX = 1_000  # of all routes; further ones are ignored without a log line
UNKNOWN_FIELD_MAX_CHARS = 100  # of a field's name in the log

SWITCH_SECONDS = (
    0.001  # after which a thread that computes lets another one run: a stream is written while its answer is read
)
START_TIMEOUT_SECONDS = 10.0
STOP_GRACE_SECONDS = 10.0  # for requests in progress when the server stops
RETRY_AFTER_SECONDS = 1  # proposed to a client that is refused for the time being


@dataclass(frozen=True)
class ServerLimits:
    """Hold the limits of one server; tests use smaller ones."""

    body_bytes: int = BODY_MAX_BYTES
    header_bytes: int = HEADERS_MAX_BYTES
    receive_seconds: float = RECEIVE_SECONDS
    send_seconds: float = SEND_SECONDS
    requests_per_key: int = REQUESTS_PER_KEY_MAX
    streams_per_key: int = STREAMS_PER_KEY_MAX
    exchanges_per_key: int = EXCHANGES_PER_KEY_MAX
    exchanges: int = EXCHANGES_MAX
    threads: int = HANDLER_THREADS_MAX
    waiting_requests: int = WAITING_REQUESTS_MAX
    stop_grace_seconds: float = STOP_GRACE_SECONDS
