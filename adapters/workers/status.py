"""Serve the health and the metrics of a worker over HTTP: `/health` as JSON, `/metrics` as Prometheus text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from threadledger.domain.errors import StoreError
from threadledger.domain.failures import redact

from ..listener import Listener, ListenerThread, bound_socket, url_of
from ..worker_threads import to_its_end

START_SECONDS_MAX = 10.0
"""Maximum time in which the status of a worker is served, in seconds."""

WHAT = "the status of the worker"
TEXT = "text/plain; charset=utf-8"


Labelled = Mapping[tuple[tuple[str, str], ...], float]
"""Values by labels, each a name and a text."""


@dataclass(frozen=True)
class Metric:
    """Define one metric: its name, what it counts, its kind (`counter` or `gauge`), and its values by labels."""

    name: str
    help: str
    kind: str
    values: Labelled


def prometheus_text(metrics: Iterable[Metric]) -> str:
    """Return metrics in the text format of Prometheus, version 0.0.4.

    Source: prometheus.io/docs/instrumenting/exposition_formats, read in November 2026.
    """
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for labels, value in metric.values.items():
            shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            lines.append(f"{metric.name}{{{shown}}} {value:g}" if shown else f"{metric.name} {value:g}")
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class StatusApp:
    """Answer `GET /health` and `GET /metrics`; every other request is a 404."""

    def __init__(self, health: Callable[[], dict[str, Any]], metrics: Callable[[], Iterable[Metric]]) -> None:
        self._health = health
        self._metrics = metrics

    def stop(self) -> None:
        """Do nothing: every request is short."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status, kind, body = await to_its_end(lambda: self._answer(scope["method"], scope["path"]))
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        headers += [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, method: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        if method not in {"GET", "HEAD"} or path not in {"/health", "/metrics"}:
            return HTTPStatus.NOT_FOUND, TEXT, b"there are only GET /health and GET /metrics here\n"
        try:
            if path == "/metrics":
                return (
                    HTTPStatus.OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    prometheus_text(self._metrics()).encode(),
                )
            found = self._health()
        except StoreError as error:
            found = {"status": "unavailable", "reason": redact(str(error))}
        status = HTTPStatus.OK if found["status"] == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "application/json", json.dumps(found).encode()


class StatusServer:
    """Serve a `StatusApp` in a thread of its own."""

    def __init__(self, app: StatusApp, host: str, port: int) -> None:
        """Listen on an address; port 0 picks a free one.

        Raises:
            OSError: the address cannot be bound.
        """
        listening = bound_socket(host, port, WHAT)
        self.url = url_of(host, int(listening.getsockname()[1]))
        self._thread = ListenerThread(Listener(app), listening, WHAT, START_SECONDS_MAX)

    def stop(self) -> None:
        """Close the server."""
        self._thread.stop()
