"""Send messages about new and returned failure groups to a webhook: each is stored first, signed, and tried again.

The form of the messages and their signature is that of Standard Webhooks 1.0.0
(github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md, read in November 2026).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from threadledger.domain.conversation import events as e
from threadledger.domain.errors import InvalidInput, InvalidSettings, LogRewound
from threadledger.domain.failures import GroupState, redact
from threadledger.domain.ids import from_iso, new_id, now, to_iso
from threadledger.domain.journal import LogCursor
from threadledger.domain.journal.webhooks import WebhookMessage
from threadledger.domain.ledger import FailureGroups

from ..settings import is_address
from ..wire.hosts import is_loopback
from .engine import Engine, WorkItem
from .work import Done, WorkFailed

if TYPE_CHECKING:
    from threadledger.domain.failures import Decision
    from threadledger.domain.journal.webhooks import GroupSeen, WebhookMessages
    from threadledger.domain.ledger import Ledger

    from ..settings import Settings

logger = logging.getLogger("threadledger.worker")

WEBHOOK_SECONDS = 5.0
"""Interval at which new failures are looked at, in seconds."""

FAILURES_AT_ONCE = 500
"""Maximum number of failures that are looked at in one step."""

MESSAGES_AT_ONCE = 4
"""Maximum number of messages that are sent at a time, so that a slow receiver keeps no other work waiting."""

ANSWER_SECONDS = 10.0
"""How long a receiver has for its answer, in seconds."""

RETRY_SECONDS = (5.0, 60.0, 600.0, 3_600.0, 6 * 3_600.0, 24 * 3_600.0)
"""Pauses before a message is sent again, in seconds; after the last attempt it is parked."""

SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret yet
SECRET_BYTES = range(24, 65)
"""Length of a secret, in bytes: what the standard allows."""


@dataclass(frozen=True)
class Webhook:
    """Hold where messages are sent, and what they are signed with."""

    url: str
    secret: bytes

    @classmethod
    def of(cls, settings: Settings) -> Webhook | None:
        """Return the webhook of these settings; None if they name none.

        Raises:
            InvalidSettings: its address or its secret cannot be used.
            FolderNotTrusted: only the working folder names it.
        """
        url = settings.webhook.get_secret_value() if settings.webhook is not None else ""
        if not url:
            return None
        parts = urlsplit(url) if is_address(url) else None
        if parts is None or not (parts.scheme == "https" or is_loopback(parts.hostname or "")):
            raise InvalidSettings(
                "THREADLEDGER_WEBHOOK is not an address that can be used: give one that begins with https:// "
                "(http:// on this machine alone)"
            )
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret is not None else ""
        settings.require_trust("webhook")
        return cls(url, _key(secret))

    @property
    def host(self) -> str:
        """Return the host, which may be shown: the rest of the address may be a secret."""
        return urlsplit(self.url).hostname or ""

    def signature(self, message: str, timestamp: int, body: bytes) -> str:
        """Return the value of the header `webhook-signature`."""
        signed = hmac.new(self.secret, f"{message}.{timestamp}.".encode() + body, hashlib.sha256)
        return f"v1,{base64.b64encode(signed.digest()).decode()}"

    def post(self, message: WebhookMessage) -> str:
        """Send a message and return the status of the answer.

        Raises:
            WorkFailed: it was not accepted, and the text says why.
        """
        body, timestamp = message.body.encode(), int(now().timestamp())
        headers = {
            "content-type": "application/json",
            "user-agent": "threadledger",
            "webhook-id": message.message,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self.signature(message.message, timestamp, body),
        }
        request = urllib.request.Request(self.url, body, headers)  # noqa: S310 - https, or loopback
        came: list[int | str] = []

        def ask() -> None:
            try:
                with _OPENER.open(request, timeout=ANSWER_SECONDS) as answer:
                    came.append(int(answer.status))
            except urllib.error.HTTPError as error:
                error.close()
                came.append(int(error.code))
            except Exception as error:  # noqa: BLE001 - of the network, in many classes
                came.append(str(getattr(error, "reason", None) or error) or type(error).__name__)

        asking = Thread(target=ask, name="threadledger-webhook", daemon=True)  # an answer may come byte by byte
        asking.start()
        asking.join(ANSWER_SECONDS)
        status = came[0] if came else f"no answer within {ANSWER_SECONDS:g} s"
        if isinstance(status, int) and 200 <= status < 300:
            return str(status)
        raise WorkFailed(f"{self.host}: {status}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None  # what was signed for one address is sent to no other


_OPENER = urllib.request.build_opener(_NoRedirect)


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) not in SECRET_BYTES:
        raise InvalidSettings(
            f"THREADLEDGER_WEBHOOK needs THREADLEDGER_WEBHOOK_SECRET, {SECRET_PREFIX} followed by {SECRET_BYTES[0]} to "
            f"{SECRET_BYTES[-1]} bytes as base64: make one with openssl rand -base64 32"
        )
    return key


class Webhooks:
    """Find new and returned failure groups in the log, and send a message for each."""

    def __init__(self, ledger: Ledger, messages: WebhookMessages, webhook: Webhook) -> None:
        self._journal = ledger.journal
        self._groups = FailureGroups(ledger.journal)
        self._messages = messages
        self._webhook = webhook

    def step(self, engine: Engine, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store messages about the failures since the last step, and queue those that are due.

        The first step begins at the end of the log: groups that failed before are not new.
        """
        cursor, since = state.get("cursor"), state.get("since") or to_iso(now())
        if cursor is None:
            cursor = self._journal.last_cursor()
        else:
            try:
                cursor, failed = self._follow(cursor)
            except (LogRewound, InvalidInput) as error:
                logger.warning("the webhook follows the log from its end: %s", redact(str(error)))
                cursor, failed = self._journal.last_cursor(), []
            if failed:
                self._messages.add(self._made(self._journal.views.groups_of_runs(failed), from_iso(since)))
        engine.defer([WorkItem("webhook", each.message) for each in self._messages.due(MESSAGES_AT_ONCE)])
        found = {"cursor": cursor, "since": since}
        return state if found == state else found

    def send(self, subject: str) -> Done:
        """Send a message, unless it was sent.

        Raises:
            WorkFailed: it was not accepted at the last attempt.
        """
        message = self._messages.get(subject)
        if message is None or message.sent_at is not None:
            return Done("it was sent before")
        if message.next_at is not None and message.next_at > now():
            return Done("it is sent later", message.next_at)
        try:
            answer = self._webhook.post(message)
        except WorkFailed as error:
            again = self._next_attempt(message)
            self._messages.attempted(subject, str(error), sent=False, next_at=again)
            if again is None:
                raise
            return Done(f"{message.kind} group {message.group}: {error}; it is sent again", again)
        self._messages.attempted(subject, answer, sent=True)
        return Done(f"{message.kind} group {message.group}: {self._webhook.host} answered {answer}")

    def _follow(self, cursor: str) -> tuple[str, list[str]]:
        """Return the cursor behind the next failures, and their runs."""
        end, failed = self._journal.last_cursor(), list[str]()
        for ledger_id, rows in self._journal.pages_after(cursor, (e.RunFailed.__name__,)):
            for row in rows:
                failed.append(str(json.loads(row[4])["run_id"]))
                if len(failed) == FAILURES_AT_ONCE:
                    return LogCursor.at(row[0], (ledger_id, row[8])), failed
        return end, failed

    def _made(self, seen: Sequence[GroupSeen], since: datetime) -> list[WebhookMessage]:
        moment, book = now(), self._groups.book()
        found = []
        for group in seen:
            decision = book.get(group.group)
            state = GroupState.of(decision, group.last_at, moment)
            if state is GroupState.RETURNED and decision is not None:
                found.append(self._message("returned", group, decision, moment))
            elif state is GroupState.OPEN and group.first_at >= since:
                found.append(self._message("new", group, None, moment))
        return found

    def _next_attempt(self, message: WebhookMessage) -> datetime | None:
        if message.attempts >= len(RETRY_SECONDS):
            return None
        return now() + timedelta(seconds=RETRY_SECONDS[message.attempts])

    def _message(self, kind: str, group: GroupSeen, decision: Decision | None, at: datetime) -> WebhookMessage:
        tenant = self._journal.tenant
        data = {
            "tenant": tenant or None,
            "group": group.group,
            "cause": group.cause.value,
            "backend": group.backend,
            "message": redact(group.message),
            "advice": group.advice,
            "first_at": to_iso(group.first_at),
            "last_at": to_iso(group.last_at),
            "resolved_at": decision.at if decision is not None else None,
            "note": decision.note if decision is not None else "",
            "command": f"threadledger {f'--tenant {tenant} ' if tenant else ''}audit groups --state all",
        }
        body = json.dumps({"type": f"failure_group.{kind}", "timestamp": to_iso(at), "data": data})
        occurrence = decision.at if decision is not None else ""
        return WebhookMessage(f"msg_{new_id().replace('-', '')}", group.group, kind, occurrence, body, at, next_at=at)
