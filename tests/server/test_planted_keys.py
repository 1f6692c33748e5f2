"""Keys that are planted in every part of a request, and in what the provider says, appear nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest
from openai import OpenAI

from threadledger.adapters.sql import Database
from threadledger.cli import main

from .route_requests import HELLO, MODEL, SERVED, WEATHER
from .route_requests import RESPONSES_WEATHER as TOOL
from .speaking import SECONDS_MAX, Answered, bearer, say, until
from .test_command import Running, running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, of every call of the Assistants API

UPSTREAM = "Pl4nt3dUpstr3amK3yWithoutAnyKnownShape"
"""Key of the upstream: of no known kind, so that it is recognised by its value alone."""

SHAPED = "sk-proj-Pl4nt3dSh4p3dK3yOfAnotherApp1234"
WRONG = "tl-" + "0badc0de" * 8


@dataclass
class Served:
    """A process of `threadledger serve` that logs everything, and what was heard from it."""

    running: Running
    log: Path
    answers: list[str] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return self.running.base_url

    def heard(self, call: Callable[[], Any]) -> Any:
        """Call the SDK, and keep what it returns, or the text and the body of its error."""
        try:
            answer = call()
            shown = [each.model_dump_json() for each in (answer if isinstance(answer, openai.Stream) else [answer])]
        except openai.APIError as error:
            answer, shown = None, [str(error), json.dumps(error.body), repr(error)]
        self.answers += shown
        return answer

    def say(self, *given: Any, **headers: str) -> Answered:
        """Send one request, and keep its answer."""
        answered = say(self.running, *given, **headers)
        self.answers.append(f"{answered.headers} {answered.raw.decode()}")
        return answered

    def stop(self) -> str:
        """Stop the process, and return what it has logged."""
        self.running.process.terminate()
        assert self.running.process.wait(SECONDS_MAX) == 0
        return self.log.read_text(encoding="utf-8")


@contextmanager
def served(db_url: str, upstream: str) -> Iterator[Served]:
    given = {"OPENAI_API_KEY": UPSTREAM, "OPENAI_BASE_URL": upstream, "OPENAI_LOG": "debug", "THREADLEDGER_DB": db_url}
    given |= {"THREADLEDGER_BACKENDS": "chat", "THREADLEDGER_THREADS": "none", "THREADLEDGER_RETRIES": "0"}
    given |= {"THREADLEDGER_LOG_TEXT": "true"}
    log = Path("log")
    with (
        log.open("w", encoding="utf-8") as errors,
        running("-v", "--log-format", "json", env=given, errors=errors) as process,
    ):
        yield Served(process, log)


def ask_with_keys_everywhere(server: Served, key: str) -> None:
    """Send a key in each part of a request to each route in which it has no meaning."""
    hidden = {
        "x_api_key": SHAPED,
        "api_key": SHAPED,
        "cookie": f"session={SHAPED}",
        "x_own": SHAPED,
        "user_agent": SHAPED,
    }
    hidden |= {"openai_organization": SHAPED}
    query = f"api_key={SHAPED}&key={quote(UPSTREAM)}&after={SHAPED}&order={SHAPED}"
    body = {SHAPED: UPSTREAM, "role": SHAPED, "model": 1, "assistant_id": SHAPED, "content": [{"type": SHAPED}]}
    body |= {"tools": [{"type": SHAPED}], "truncation_strategy": {"type": SHAPED}, "response_format": SHAPED}
    for route in SERVED:
        names = (each if not each.startswith("{") else SHAPED for each in route.segments)
        path = f"/v1/{'/'.join(names)}?{query}"
        given = body | {"messages": [{"role": SHAPED, SHAPED: 1}], "tool_outputs": [{"tool_call_id": SHAPED}]}
        server.say(route.method, path, given if route.method == "POST" else None, **hidden, **bearer(key))
    for own in ({}, bearer(WRONG), bearer(UPSTREAM), {"authorization": f"Basic {SHAPED}"}):
        server.say("GET", f"/v1/threads/{SHAPED}?{query}", None, **hidden, **own)
    server.say("POST", f"/v1/{SHAPED}", {}, **bearer(key))
    server.say("PATCH", f"/v1/threads/{SHAPED}", None, **bearer(key))
    server.say("POST", "/v1/threads", f'{{"{SHAPED}'.encode(), **bearer(key))
    server.say("GET", f"/openai/threads/{SHAPED}?api-version=1", None, api_key=WRONG)
    server.say("POST", "/v1/threads", {}, idempotency_key=SHAPED, x_stainless_retry_count=SHAPED, **bearer(key))


def faults(said: str) -> Iterator[dict[str, Any]]:
    """Yield ways in which a provider says a text that it should not."""
    for status, code in ((401, "invalid_api_key"), (429, "rate_limit_exceeded"), (500, "server_error")):
        yield {"refuse": {"status": status, "code": code, "message": said, "headers": {"x-request-id": SHAPED}}}
    yield {"error_event": {"events": 2, "message": said}}
    yield {"reply": {"status": 502, "text": said}}


def use_responses(server: Served, simulator: Any, client: OpenAI, said: str) -> None:
    """Create responses of a conversation that fail in each way: whole, streamed, and in the background; read them all."""
    conversation = server.heard(lambda: client.conversations.create(items=[HELLO]))  # type: ignore[list-item] # the SDK's own types
    ask = partial(client.responses.create, model=MODEL, conversation=conversation.id, input="Hello", tools=[TOOL])  # type: ignore[list-item] # the SDK's own types
    server.heard(ask)
    for options in ({}, {"stream": True}, {"background": True}):
        for fault in faults(said):
            simulator.add_fault("POST /chat/completions", **fault)
            made = server.heard(partial(ask, **options))
            if options.get("background"):
                until(lambda name=made.id: client.responses.retrieve(name).status == "failed")
                server.heard(partial(client.responses.retrieve, made.id))
                server.heard(partial(client.responses.input_items.list, made.id))
    server.heard(partial(client.conversations.items.list, conversation.id))


def work(server: Served, simulator: Any, key: str, other: str) -> str:
    """Use the API as an app does, with a provider that says keys in its errors; return the id of the thread."""
    said = f"no such key: {UPSTREAM}; not {key}, {other} or {SHAPED}; Authorization: Bearer {UPSTREAM}"
    with OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as client:
        assistant = server.heard(lambda: client.beta.assistants.create(model=MODEL, tools=[WEATHER]))  # type: ignore[list-item] # the SDK's own types
        thread = server.heard(lambda: client.beta.threads.create(messages=[HELLO]))  # type: ignore[list-item] # the SDK's own types
        runs = client.beta.threads.runs

        poll = partial(runs.create_and_poll, thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=10)
        stream = partial(runs.create, thread.id, assistant_id=assistant.id, stream=True)
        server.heard(poll)
        for run, fault in zip((poll, stream, poll, stream, stream), faults(said), strict=True):
            simulator.add_fault("POST /chat/completions", **fault)
            server.heard(run)
        for listed in (runs.list(thread.id), client.beta.threads.messages.list(thread.id), client.models.list()):
            server.heard(lambda page=listed: page)
        for each in runs.list(thread.id).data:
            server.heard(lambda run_id=each.id: runs.steps.list(run_id, thread_id=thread.id))
        assert len({each.last_error.code for each in runs.list(thread.id).data if each.last_error}) > 1
        use_responses(server, simulator, client, said)
    for wrong in (WRONG, SHAPED, UPSTREAM):
        with OpenAI(base_url=server.base_url, api_key=wrong, max_retries=0) as client:
            server.heard(client.models.list)
    return str(thread.id)


def stored(url: str) -> str:
    """Return everything that a database holds, as text: each row of each table, and the bytes of its files."""
    database = Database(url)
    try:
        is_file = database.kind.name == "sqlite"
        tables = "sqlite_master WHERE type = 'table'" if is_file else "pg_tables WHERE schemaname = current_schema()"
        names = [row[0] for row in database.query(f"SELECT {'name' if is_file else 'tablename'} FROM {tables}")]
        rows = [str(row) for name in names for row in database.query(f'SELECT * FROM "{name}"')]
    finally:
        database.close()
    files = Path(url.removeprefix("sqlite:///")).parent.glob("ledger.db*") if is_file else ()
    return "\n".join([*rows, *(each.read_bytes().decode("latin-1") for each in files)])


def test_planted_keys_appear_in_no_log_database_answer_or_command(
    any_db_url: str, simulator: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THREADLEDGER_DB", any_db_url)
    keys = []
    for options in (["app"], ["other", "--tenant", "acme"], ["reader", "--read-only"], ["former"]):
        assert main(["serve", "keys", "add", *options]) == 0
        keys.append(capsys.readouterr().out.strip())
    assert main(["serve", "keys", "revoke", "former"]) == 0
    own, other, reader, former = keys
    with served(any_db_url, simulator.base_url) as server:
        thread_id = work(server, simulator, own, other)
        ask_with_keys_everywhere(server, own)
        for refused in (reader, former):
            server.say("POST", "/v1/threads", {}, **bearer(refused))
        places = {"the log": server.stop()}
    places["the answers"] = "\n".join(server.answers)
    capsys.readouterr()
    for command in (
        ["audit", "failures"],
        ["audit", "groups"],
        ["show", thread_id, "--view", "timeline"],
        ["serve", "keys", "list"],
        ["export", thread_id],
    ):
        assert main([*command, *(["-o", "json"] if command[0] != "export" else [])]) == 0, command
        done = capsys.readouterr()
        places[" ".join(command)] = done.out + done.err
    places["the database"] = stored(any_db_url)

    planted = {**dict(zip(("own", "other", "reader", "former"), keys, strict=True)), "shaped": SHAPED, "wrong": WRONG}
    planted |= {"upstream": UPSTREAM}
    cores = {name: key.removeprefix("tl-").removeprefix("sk-proj-") for name, key in planted.items()}
    found = [(name, place) for place, text in places.items() for name, core in cores.items() if core in text]
    assert found == []
    hashes = {name: sha256(planted[name].encode()).hexdigest() for name in planted}
    assert [name for name, each in hashes.items() if each in places["the database"]] == [
        "own",
        "other",
        "reader",
        "former",
    ]
    shown = {place for place, text in places.items() if any(each in text for each in hashes.values())}
    assert shown == {"the database"}
    assert "[redacted]" in places["audit failures"]
    assert '"path": "/threads"' in places["the log"]
