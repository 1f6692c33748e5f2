"""Test the messages about failure groups: one for each new or returned group, signed, tried again and recorded."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from freezegun import freeze_time
from openai import InvalidWebhookSignatureError, OpenAI

from threadledger.adapters import load_settings, open_ledger
from threadledger.adapters.sql import SqlWebhookMessages
from threadledger.adapters.workers import Worker, WorkerOptions, open_worker, webhooks
from threadledger.adapters.workers.webhooks import RETRY_SECONDS, Webhook, Webhooks
from threadledger.adapters.workers.work import WorkFailed
from threadledger.domain.errors import InvalidSettings
from threadledger.domain.ids import now
from threadledger.domain.ledger import Ledger

from .performing import wait_until

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


class Receiver:
    """Accept messages on loopback, each with the next of `answers`, or 204."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_given: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=very-secret"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def data(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]


class Queue:
    """Take the place of an engine: note what is queued."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    def defer(self, items: Any) -> None:
        self.subjects += [item.subject for item in items]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def ledger(any_db_url: str) -> Iterator[Ledger]:
    with open_ledger(load_settings(db=any_db_url, threads="none")) as opened:
        yield opened


class Sending:
    """Do the steps of the duty, and send what is queued, as a worker does."""

    def __init__(self, ledger: Ledger, receiver: Receiver) -> None:
        self.messages = SqlWebhookMessages(ledger.journal.factory.database)  # type: ignore[attr-defined]
        webhook = Webhook.of(load_settings(webhook=receiver.url, webhook_secret=SECRET))
        assert webhook is not None
        self.webhooks = Webhooks(ledger, self.messages, webhook)
        self.state: Any = {}

    def step(self) -> list[str]:
        queue = Queue()
        self.state = self.webhooks.step(queue, self.state)  # type: ignore[arg-type]
        return queue.subjects

    def all(self) -> list[str]:
        """Step and send, and return what came of each message."""
        return [self.webhooks.send(subject).what for subject in self.step()]


@pytest.fixture
def sending(ledger: Ledger, receiver: Receiver) -> Sending:
    return Sending(ledger, receiver)


def fail(ledger: Ledger, key: str, message: str = "the model is overloaded") -> None:
    chat = ledger.conversation(key)
    chat.append("user", "Where is my parcel?")
    with pytest.raises(RuntimeError), chat.run("own", "some-model"):
        raise RuntimeError(message)


def test_a_group_that_failed_before_is_not_new_and_each_later_one_is_told_once(
    ledger: Ledger, sending: Sending, receiver: Receiver
) -> None:
    fail(ledger, "before", "old trouble")
    assert sending.all() == []
    fail(ledger, "before", "old trouble")
    for number in range(3):
        fail(ledger, f"k{number}", f"cannot reach host {number}")
    sending.all()
    fail(ledger, "k3", "cannot reach host 4")
    sending.all()
    (told,) = receiver.data
    (group,) = [each for each in ledger.failure_groups() if each.runs == 4]
    assert (told["type"], told["data"]["group"], told["data"]["cause"]) == (
        "failure_group.new",
        group.group,
        group.cause.value,
    )
    assert told["data"]["advice"] == group.advice and "Where is my parcel" not in str(told)


def test_a_resolved_group_that_fails_again_has_returned_and_is_told_once_for_each_resolution(
    ledger: Ledger, sending: Sending, receiver: Receiver
) -> None:
    sending.all()
    fail(ledger, "k")
    sending.all()
    for number in range(2):
        ledger.resolve_group(ledger.failure_groups()[0].group, note=f"fixed {number}")
        sending.all()
        fail(ledger, "k")
        fail(ledger, "k")
        sending.all()
        sending.all()
    assert [(each["type"], each["data"]["note"]) for each in receiver.data] == [
        ("failure_group.new", ""),
        ("failure_group.returned", "fixed 0"),
        ("failure_group.returned", "fixed 1"),
    ]


def test_a_muted_group_is_not_told(ledger: Ledger, sending: Sending, receiver: Receiver) -> None:
    sending.all()
    fail(ledger, "k")
    sending.all()
    ledger.mute_group(ledger.failure_groups()[0].group)
    fail(ledger, "k")
    sending.all()
    assert len(receiver.got) == 1


def test_the_signature_is_that_of_standard_webhooks_and_covers_the_body(
    ledger: Ledger, sending: Sending, receiver: Receiver
) -> None:
    sending.all()
    fail(ledger, "k")
    sending.all()
    ((headers, body),) = receiver.got
    verify = OpenAI(api_key="none", webhook_secret=SECRET).webhooks.verify_signature
    verify(body.decode(), headers)
    with pytest.raises(InvalidWebhookSignatureError):
        verify(body.decode() + " ", headers)


def test_a_message_that_is_not_accepted_is_sent_again_with_the_same_id_until_it_is(
    ledger: Ledger, sending: Sending, receiver: Receiver
) -> None:
    sending.all()
    fail(ledger, "k")
    elsewhere = {"location": receiver.url}
    receiver.answers = [(500, {}), (302, elsewhere), (307, elsewhere)]
    moment = now()
    for pause in (0.0, *RETRY_SECONDS[:3]):
        moment += timedelta(seconds=pause + 60)
        with freeze_time(moment, tick=True):
            sending.all()
            assert sending.all() == []
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    times = [headers["webhook-timestamp"] for headers, _ in receiver.got]
    assert (len(ids), len(set(ids)), len(set(times)), len({body for _, body in receiver.got})) == (4, 1, 4, 1)
    message = sending.messages.get(ids[0])
    assert message is not None and (message.attempts, message.answer, message.sent_at is not None) == (4, "204", True)


def test_a_message_that_is_never_accepted_is_parked_and_sent_when_a_person_asks_for_it(
    ledger: Ledger, sending: Sending, receiver: Receiver
) -> None:
    sending.all()
    fail(ledger, "k")
    receiver.answers = [(503, {})] * (len(RETRY_SECONDS) + 1)
    moment, queued = now(), sending.step()
    for pause in (0.0, *RETRY_SECONDS[:-1]):
        moment += timedelta(seconds=pause + 60)
        with freeze_time(moment, tick=True):
            assert "503" in sending.webhooks.send(queued[0]).what
    with (
        freeze_time(moment + timedelta(seconds=RETRY_SECONDS[-1] + 60), tick=True),
        pytest.raises(WorkFailed, match=r"127\.0\.0\.1: 503"),
    ):
        sending.webhooks.send(queued[0])
    assert sending.step() == []
    assert "answered 204" in sending.webhooks.send(queued[0]).what


@pytest.mark.parametrize(
    ("url", "secret", "said"),
    [
        ("ftp://example.org/hook", SECRET, "THREADLEDGER_WEBHOOK is not an address"),
        ("http://example.org/hook", SECRET, "https://"),
        ("https://example.org/hook", None, "THREADLEDGER_WEBHOOK_SECRET"),
        ("https://example.org/hook", "whsec_dG9vIHNob3J0", "24 to 64 bytes"),
        ("https://example.org/hook", "not base64 at all", "openssl rand"),
    ],
)
def test_an_address_or_a_secret_that_cannot_be_used_is_refused_without_being_shown(
    url: str, secret: str | None, said: str
) -> None:
    with pytest.raises(InvalidSettings, match=said) as caught:
        Webhook.of(load_settings(webhook=url, webhook_secret=secret))
    assert "example.org/hook" not in str(caught.value) and (secret or "whsec_x") not in str(caught.value)


def test_a_worker_tells_a_new_group_by_itself_and_the_address_is_in_no_log_line(
    any_db_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("threadledger.adapters.workers.worker.WEBHOOK_SECONDS", 0.05)
    caplog.set_level("INFO", "threadledger.worker")
    receiver.answers = [(500, {})]
    monkeypatch.setattr(webhooks, "RETRY_SECONDS", (0.1,))
    settings = load_settings(db=any_db_url, threads="none", webhook=receiver.url, webhook_secret=SECRET)
    with open_ledger(settings) as ledger:
        worker: Worker = open_worker(ledger, settings, WorkerOptions(1, port=0))
        worker.start()
        try:
            wait_until(lambda: any(each.name == "webhook" and each.state for each in worker.work.notes.duties()))
            fail(ledger, "k")
            wait_until(lambda: worker.work.done.get(("webhook", "done"), 0) >= 1)
        finally:
            worker.stop()
    assert [each["type"] for each in receiver.data] == ["failure_group.new"] * 2
    assert "127.0.0.1 answered 204" in caplog.text and "very-secret" not in caplog.text
