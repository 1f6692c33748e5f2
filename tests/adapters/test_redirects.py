"""A server that redirects to another origin is not followed: the question and the key would be sent to a host of its choice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from threadledger.adapters.openai import ChatBackend, Client, ConversationThreads, ResponsesBackend
from threadledger.domain.conversation import Profile, text_message
from threadledger.domain.conversation.messages import JournaledMessage
from threadledger.domain.errors import ProviderRefused
from threadledger.domain.exchange import BackendRequest
from threadledger.domain.failures import Cause, Failure, diagnose, is_worth_a_retry
from threadledger.domain.memory import Memory
from threadledger.domain.threads import is_uncertain

from .performing import DRIVERS
from .serving import Serving


class Redirecting(Serving):
    """A server that answers every request with a redirect to one place."""

    def __init__(self) -> None:
        self.target = ""
        self.sent: list[str] = []
        redirecting = self

        class Handler(BaseHTTPRequestHandler):
            def redirect(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                redirecting.sent.append(self.path)
                self.send_response(307)
                self.send_header("location", redirecting.target + self.path.removeprefix("/elsewhere"))
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST = redirect

        super().__init__(Handler)


@pytest.fixture
def redirecting() -> Iterator[Redirecting]:
    server = Redirecting()
    yield server
    server.stop()


@pytest.fixture(params=DRIVERS)
def performing(request: pytest.FixtureRequest) -> Iterator[Any]:
    with DRIVERS[request.param]() as driver:
        yield driver


def refusal(performing: Any, base_url: str, kind: str, stream: bool) -> Failure:
    """Make one request of a kind, and return the failure."""
    client = performing.closing(Client(api_key="sk-test", base_url=base_url, timeout_seconds=5.0))
    question = JournaledMessage(text_message("user", "Where is it?"), "m1", 2, datetime.now(UTC))
    request = BackendRequest("k", "x", "run", "m", Profile(), Memory((question,), 2), 5.0, stream=stream)
    effects = {
        "chat": lambda: ChatBackend(client).answer(request),
        "responses": lambda: ResponsesBackend(client, in_conversations=False).answer(request),
        "a thread": lambda: ConversationThreads(client).read("conv_1"),
    }[kind]()
    with pytest.raises(ProviderRefused) as refused:
        performing(effects)
    return refused.value.failure


@pytest.mark.parametrize(
    ("kind", "stream"), [("chat", False), ("chat", True), ("responses", False), ("a thread", False)]
)
def test_nothing_is_sent_to_another_origin(
    performing: Any, redirecting: Redirecting, simulator: Any, kind: str, stream: bool
) -> None:
    redirecting.target = simulator.base_url.removesuffix("/v1")
    failure = refusal(performing, f"{redirecting.url}/v1", kind, stream)
    assert (failure.code, diagnose(failure), is_worth_a_retry(failure)) == ("redirect_refused", Cause.NETWORK, False)
    assert failure.message is not None and redirecting.target in failure.message
    assert (len(redirecting.sent), simulator.requests) == (1, [])
    assert not is_uncertain(failure)


def test_a_redirect_within_an_origin_is_followed(performing: Any, redirecting: Redirecting) -> None:
    refusal(performing, f"{redirecting.url}/elsewhere/v1", "chat", stream=False)  # it redirects for ever
    assert redirecting.sent[:2] == ["/elsewhere/v1/chat/completions", "/v1/chat/completions"]
