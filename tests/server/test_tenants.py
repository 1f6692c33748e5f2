"""Tenants cannot read, list, write or delete each other's objects: every served route, with every id that it can carry.

The requests are made from the table of routes by `route_requests.py`. A tenant's objects carry its mark in each text.
"""

from __future__ import annotations

import base64
import http.client
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest

from threadledger.adapters import import_found, import_source
from threadledger.adapters.server import Server
from threadledger.adapters.server.handlers import HANDLERS
from threadledger.adapters.wire.routes import CHAT, RESPONSE

from .route_requests import (
    ASKING,
    BODIES,
    FIELDS_WITH_CONTENT,
    FIELDS_WITH_IDS,
    FIELDS_WITHOUT_IDS,
    FILTERS,
    FORM,
    HEADERS,
    HEADERS_WITHOUT_IDS,
    HELLO,
    LISTED,
    MODEL,
    NAMES,
    OF_WAITING,
    QUERIES_WITHOUT_IDS,
    RESPONSES_WEATHER,
    SERVED,
    WEATHER,
    Ids,
    Json,
    Place,
    Request,
    Template,
    templates,
)
from .speaking import SECONDS_MAX, until
from .test_repeated_requests import Gate

ONE, LIKE_ONE, NONE = "acme", "acme-2", ""
"""Two tenants, of which one's name begins with the other's, and those objects that belong to no tenant."""

MARKS = {ONE: "mark-of-one", LIKE_ONE: "mark-of-another", NONE: "mark-of-none"}
PAIRS = [(ONE, LIKE_ONE), (LIKE_ONE, ONE), (ONE, NONE), (NONE, ONE)]
"""Owners, each with a tenant that asks for its objects."""
SHARING = [(ONE, LIKE_ONE), (NONE, ONE)]
"""The same, where both have objects with the same ids."""

CALL: Json = {"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
WRITING = tuple(each for each in SERVED if each.method != "GET")
RETRY = {"x-stainless-retry-count": "1"}


@dataclass(frozen=True)
class Said:
    """What the server answered."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def ids(self) -> set[str]:
        """Return the ids of the objects in the answer or its list, or in each event of a stream."""
        values = [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: {")] or [self.json]
        values = [each.get("response", each) for each in values]
        return {each["id"] for value in values for each in value.get("data", [value]) if "id" in each}


@dataclass
class World:
    """One server with a key for each tenant, one connection to it, and what the tenants have."""

    server: Server
    simulator: Any
    keys: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.line = http.client.HTTPConnection(self.server.host, self.server.port, timeout=SECONDS_MAX)
        return self

    def __exit__(self, *_error: object) -> None:
        self.line.close()

    @property
    def ledger(self) -> Any:
        return self.server.served.ledger

    def key(self, tenant: str, *, read_only: bool = False) -> str:
        """Return a key of a tenant."""
        name = name_of_key(tenant) + (", reading" if read_only else "")
        if name not in self.keys:
            self.keys[name] = self.ledger.api_keys.add(name, tenant, read_only)
        return self.keys[name]

    def send(self, tenant: str, request: Request, more: Mapping[str, str] | None = None, key: str = "") -> Said:
        """Send a request with the key of a tenant."""
        headers = {"authorization": f"Bearer {key or self.key(tenant)}", **request.headers, **(more or {})}
        if request.raw is not None:
            headers["content-type"] = request.kind
        self.line.request(request.route.method, request.path, request.raw, headers)
        answer = self.line.getresponse()
        return Said(answer.status, answer.read().decode())

    def ask(self, tenant: str, operation: str, body: Any = None, **ids: str) -> Any:
        """Return the object that an operation answers."""
        route = next(each for each in SERVED if each.operation == operation)
        template = Template(route, {name: f"{{{name}}}" for name in ids}, body=body)
        said = self.send(tenant, template.filled(lambda _, kind: ids[kind]))
        assert said.status == 200, f"{operation}: {said.text}"
        return said.json if said.text.startswith("{") else said

    def furnish(self, tenant: str, *, shared: bool = False) -> dict[str, str]:
        """Return the ids of new objects of a tenant, by kind; with `shared`, some of a dump that every tenant imports."""
        mark = MARKS[tenant]
        if shared:
            own = self.bring(tenant, "shared")
        else:
            given = {"model": MODEL, "name": mark, "tools": [WEATHER], "instructions": mark, "metadata": {"by": mark}}
            own = {"assistant_id": self.ask(tenant, "create_assistant", given)["id"]}
            begin = {"messages": [{"role": "user", "content": mark}], "metadata": {"by": mark}}
            own["thread_id"] = self.ask(tenant, "create_thread", begin)["id"]
        run = {"assistant_id": own["assistant_id"], "stream": True, "metadata": {"by": mark}}
        self.simulator.answer(f"an answer, {mark}")
        self.ask(tenant, "create_run", run, thread_id=own["thread_id"])
        own["run_id"] = self.ask(tenant, "list_runs", thread_id=own["thread_id"])["data"][0]["id"]
        steps = self.ask(tenant, "list_run_steps", thread_id=own["thread_id"], run_id=own["run_id"])
        own["step_id"] = steps["data"][0]["id"]
        if not shared:
            own["message_id"] = steps["data"][0]["step_details"]["message_creation"]["message_id"]
        own |= self.waiting(tenant, own["assistant_id"]) | {
            "conversation": "support" if shared else f"chat-of-{len(tenant)}"
        }
        own |= {"conversation_id": own["thread_id"]} if shared else {}
        return own | self.completed(tenant) | self.filed(tenant) | self.responded(tenant, own.get("conversation_id"))

    def filed(self, tenant: str) -> dict[str, str]:
        """Return the ids of an image, of a file, of a vector store that has that, and of the batch with which it was added."""
        mark = MARKS[tenant]
        upload = {FORM: [f"{mark}.txt", f"Here is the {mark}."], "purpose": "assistants"}
        image = {FORM: [f"{mark}.png", f"A picture of the {mark}."], "purpose": "vision"}
        own = {"image_id": self.ask(tenant, "create_file", image)["id"]}
        own["file_id"] = self.ask(tenant, "create_file", upload)["id"]
        own["vector_store_id"] = self.ask(tenant, "create_vector_store", {"name": mark})["id"]
        given = {"file_ids": [own["file_id"]], "attributes": {"by": mark}}
        batch = self.ask(tenant, "create_file_batch", given, vector_store_id=own["vector_store_id"])
        return own | {"batch_id": batch["id"]}

    def bring(self, tenant: str, name: str, key: str | None = None) -> dict[str, str]:
        """Import a dump for a tenant, and return the ids in it by kind."""
        path = Path("dump.json")
        path.write_text(json.dumps(dump_of(tenant, name, key)), encoding="utf-8")
        with import_source(str(path)) as source:
            assert [*import_found(self.ledger, source.found, tenant=tenant)]
        thread_id, message_id = f"thread_{name}", f"msg_{name}"
        self.ask(tenant, "retrieve_message", thread_id=thread_id, message_id=message_id)
        item_id = self.ask(tenant, "list_items", conversation_id=thread_id)["data"][-1]["id"]
        own = {"assistant_id": f"asst_{name}", "thread_id": thread_id, "message_id": message_id}
        return own | {"conversation_id": thread_id, "item_id": item_id}

    def waiting(self, tenant: str, assistant_id: str) -> dict[str, str]:
        """Return the ids of a new run that waits for a result."""
        self.simulator.answer(CALL)
        begun = self.ask(tenant, "create_response", ASKING | {"background": True})["id"]
        self.settle()
        self.simulator.answer(CALL)
        given = {"assistant_id": assistant_id, "stream": True, "thread": {"messages": [HELLO], "metadata": {}}}
        said = self.ask(tenant, "create_thread_and_run", given)
        lines = said.text.splitlines()
        run = json.loads(lines[lines.index("event: thread.run.requires_action") + 1][6:])
        call = run["required_action"]["submit_tool_outputs"]["tool_calls"][0]
        waiting = {"waiting_thread_id": run["thread_id"], "waiting_run_id": run["id"], "tool_call_id": call["id"]}
        return waiting | {"waiting_response_id": begun}

    def completed(self, tenant: str) -> dict[str, str]:
        """Return the ids of a stored completion and of its first message."""
        given = {"model": MODEL, "messages": [{"role": "user", "content": MARKS[tenant]}], "store": True}
        made = self.ask(tenant, "create_completion", given)["id"]
        messages = self.ask(tenant, "list_completion_messages", completion_id=made)["data"]
        return {"completion_id": made, "completion_message_id": messages[0]["id"]}

    def responded(self, tenant: str, conversation_id: str | None) -> dict[str, str]:
        """Return the ids of a conversation, of a response in it and of their items, and of one that calls a function."""
        said = {"role": "user", "content": MARKS[tenant]}
        if conversation_id is None:
            begin = {"items": [said], "metadata": {"by": MARKS[tenant]}}
            conversation_id = str(self.ask(tenant, "create_conversation", begin)["id"])
        given = {"model": MODEL, "input": [said], "conversation": conversation_id, "instructions": MARKS[tenant]}
        made = self.ask(tenant, "create_response", given)["id"]
        inputs = self.ask(tenant, "list_input_items", response_id=made)["data"]
        items = self.ask(tenant, "list_items", conversation_id=conversation_id)["data"]
        self.simulator.answer(CALL)
        calling = self.ask(tenant, "create_response", ASKING | {"tools": [RESPONSES_WEATHER]})
        own = {"conversation_id": conversation_id, "item_id": items[-1]["id"], "response_id": made}
        own |= {"calling_response_id": calling["id"], "call_id": calling["output"][0]["call_id"]}
        return own | {"input_item_id": inputs[0]["id"]}

    def settle(self) -> None:
        """Wait until no run is in progress, so that a tenant's events change by its requests alone."""
        runner = self.server.served.runner
        until(lambda: not (runner._live or runner._attended or runner._running))

    def events(self, tenant: str) -> list[tuple[Any, ...]]:
        """Return every row of a tenant's streams."""
        return [row for row in self.rows() if owner_of(row[0]) == tenant]

    def rows(self) -> list[tuple[Any, ...]]:
        """Return every row of the streams of conversations and assistants."""
        path = self.ledger.status()["url"].removeprefix("sqlite:///")
        query = (
            "SELECT s.name, e.version, e.topic, e.at, e.leaf, e.state FROM events e JOIN streams s USING (stream) "
            "WHERE s.name != 'serve:keys' AND s.name NOT LIKE 'profile:%' ORDER BY e.position"
        )
        with sqlite3.connect(path) as reading:
            rows = reading.execute(query).fetchall()
        reading.close()
        return rows


def name_of_key(tenant: str) -> str:
    """Return the name of a tenant's key, which is in the events that it causes."""
    return f"key of {tenant or 'none'}"


def owner_of(stream: str) -> str:
    """Return the tenant to which a stream belongs."""
    kind, _, name = stream.partition(":")
    if kind in ("assistant", "file", "vector_store"):
        return name.partition("/")[0]
    assert kind == "conversation", stream
    return name.removeprefix("tenant:").partition("/")[0] if name.startswith("tenant:") else ""


@pytest.fixture
def world(serving: Callable[..., Server], simulator: Any) -> Iterator[World]:
    with World(serving(), simulator) as opened:
        yield opened


def dump_of(tenant: str, name: str, key: str | None = None) -> Json:
    """Return a dump of the Assistants API with an assistant and a thread of one message; `key` is that of its conversation."""
    mark = MARKS[tenant]
    content = [{"type": "text", "text": {"value": mark, "annotations": []}}]
    said = {"id": f"msg_{name}", "object": "thread.message", "created_at": 1_700_000_001, "role": "user"}
    said |= {"thread_id": f"thread_{name}", "content": content}
    thread = {"id": f"thread_{name}", "object": "thread", "created_at": 1_700_000_000, "messages": [said]}
    thread["metadata"] = {"by": mark} | ({"threadledger_key": key} if key is not None else {})
    assistant = {"id": f"asst_{name}", "object": "assistant", "created_at": 1, "model": MODEL, "name": mark}
    return {"assistants": [assistant | {"tools": [WEATHER]}], "threads": [thread]}


def unlike(own: Ids) -> dict[str, str]:
    """Return ids of the same forms that nobody has."""
    return {kind: f"{each[:-4]}{'0f0f' if not each.endswith('0f0f') else 'f0f0'}" for kind, each in own.items()}


def parts_of(tenant: str, theirs: Ids, own: Ids, sent: Request) -> list[str]:
    """Return what is a tenant's, but for the ids that another one has too, or sends."""
    given = f"{sent.path} {sent.headers} {sent.body} {own}"
    return [MARKS[tenant], *(each for each in theirs.values() if each not in given)]


def chosen_places(template: Template) -> Iterator[list[Place]]:
    """Yield each place alone, then all together."""
    places = template.places
    yield from ([each] for each in places)
    if len(places) > 1:
        yield places


# What is known of the routes


class Watched(dict[str, str]):
    """Remember the names that are read."""

    def __init__(self, given: Mapping[str, str], names: set[str]) -> None:
        super().__init__(given)
        self.names = names

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


def test_every_parameter_and_field_of_a_served_route_is_known_here() -> None:
    assert {each.operation for each in SERVED} == set(HANDLERS)
    known = FIELDS_WITHOUT_IDS | FIELDS_WITH_CONTENT | FIELDS_WITH_IDS.keys()
    assert not [(each.operation, name) for each in SERVED for name in set(each.fields) - known]
    lists = {each.operation for each in SERVED if each.operation.startswith("list_")} - {"list_models"}
    assert lists <= set(LISTED)
    assert {each.operation for each in WRITING if each.fields} <= set(BODIES)
    named = {"assistant_id", "tool_outputs", "tool_resources", "attachments", "file_id", "file_ids", "files"}
    named |= {"conversation", "previous_response_id"}
    for route in SERVED:
        given = {name for body in BODIES.get(route.operation, ()) for name in body}
        assert named & set(route.fields) <= given, f"{route.operation} needs a request with each of its ids"


def test_every_served_route_answers_the_request_here_and_reads_no_other_name(
    serving: Callable[..., Server], simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: dict[str, set[str]] = {}
    headers: dict[str, set[str]] = {}

    def watched(operation: str, handler: Any) -> Any:
        def call(served: Any, given: Any) -> Any:
            given.query = Watched(given.query, queries.setdefault(operation, set()))
            given.request_headers = Watched(given.request_headers, headers.setdefault(operation, set()))
            return handler(served, given)

        return call

    patched = {name: watched(name, handler) for name, handler in HANDLERS.items()}
    monkeypatch.setattr("threadledger.adapters.server.server.HANDLERS", patched)
    with World(serving(), simulator) as world:
        own = world.furnish(ONE)
        ends = [each for each in SERVED if each.method == "DELETE" or each.operation in OF_WAITING]
        for route in [*(each for each in SERVED if each not in ends), *ends]:
            for template in templates(route):
                ids = world.furnish(ONE) if route in ends else own
                said = world.send(ONE, template.of(ids))
                assert said.status == 200, f"{route.operation}: {said.text}"
                world.settle()
    for operation in HANDLERS:
        pages = {"after", "before"} if operation in LISTED else set()
        known = QUERIES_WITHOUT_IDS | pages | FILTERS.get(operation, {}).keys()
        assert queries[operation] <= known, operation
        named = {name for each in HEADERS.get(operation, ()) for name in each}
        assert headers[operation] <= HEADERS_WITHOUT_IDS | named, operation


# Ids of another tenant


@pytest.mark.parametrize(("owner", "other"), PAIRS, ids=str)
def test_an_id_of_another_tenant_is_refused_like_one_that_nobody_has(world: World, owner: str, other: str) -> None:
    theirs, own = world.furnish(owner), world.furnish(other)
    imported = theirs | world.bring(owner, "of_a_dump", "key-of-the-app")
    world.settle()
    before = world.events(owner)
    wrong: list[str] = []
    tried = 0
    for template in (each for route in SERVED for each in templates(route)):
        for chosen in chosen_places(template):
            for held in (theirs, imported):
                if (
                    any(held[template.kind(place)] != theirs[template.kind(place)] for place in chosen)
                    or held is theirs
                ):
                    wrong += differences(world, (owner, other), (held, own), template, chosen)
                    tried += 1
    world.settle()
    assert wrong == []
    assert tried > 50
    assert world.events(owner) == before


def differences(
    world: World, tenants: tuple[str, str], ids: tuple[Ids, Ids], template: Template, chosen: list[Place]
) -> Iterator[str]:
    """Send a request with an owner's ids in the chosen places, and yield what tells them from ids that nobody has."""
    (owner, other), (theirs, own) = tenants, ids
    nobodys = unlike(theirs)
    sent = template.filled(lambda place, kind: (theirs if place in chosen else own)[kind])
    twin = template.filled(lambda place, kind: (nobodys if place in chosen else own)[kind])
    said, unknown = world.send(other, sent), world.send(other, twin)
    where = f"{template.route.name} with {chosen}: {said.status} {said.text[:300]}"
    if any(each in said.text for each in parts_of(owner, theirs, own, sent)):
        yield f"{where} shows what is not theirs"
    if {template.kind(place) for place in chosen} <= NAMES:
        if (said.status, unknown.status) != (200, 200):
            yield where
        return
    shown = said.text
    for kind in map(template.kind, chosen):
        shown = shown.replace(theirs[kind], nobodys[kind])
    is_filter = chosen[0][0] == "query" and chosen[0][1] not in ("after", "before")
    is_refused = said.status in (400, 404) or (is_filter and said.json["data"] == [])
    if not is_refused or (said.status, shown) != (unknown.status, unknown.text):
        yield f"{where}, but of an unknown id: {unknown.status} {unknown.text[:300]}"


FORMS = (
    "tenant:{tenant}/{id}",
    "{tenant}/{id}",
    "/{id}",
    "../{tenant}/{id}",
    "tenant%3A{tenant}%2F{id}",
    "{id}/",
    "{id} ",
    "{id}\0",
    "{id}?",
)
"""Ids that could lead to another tenant's object if they were taken apart, or were not encoded."""


@pytest.mark.parametrize("other", [NONE, LIKE_ONE], ids=str)
def test_an_id_that_is_written_as_a_key_leads_to_no_other_tenant(world: World, other: str) -> None:
    theirs, own = world.furnish(ONE), world.furnish(other)
    world.settle()
    before = world.events(ONE)
    wrong: list[str] = []
    for template in (next(templates(route)) for route in SERVED):
        for place in (each for each in template.places if each[0] == "path"):
            for form in FORMS:
                written = form.format(tenant=ONE, id=theirs[template.kind(place)])
                sent = template.filled(lambda at, kind, p=place, w=written: w if at == p else own[kind])  # type: ignore[misc] # defaults bind the values of this turn
                paths = {sent.path, sent.path.replace(quote(written, safe=""), quote(written, safe="/:%"))}
                for path in paths:
                    said = world.send(other, Request(sent.route, path, sent.headers, sent.body))
                    if said.status not in (400, 404, 405) or MARKS[ONE] in said.text:
                        wrong.append(f"{sent.route.method} {path}: {said.status} {said.text[:200]}")
    assert wrong == []
    assert world.events(ONE) == before


def test_a_list_has_the_objects_of_one_tenant_alone_page_by_page(world: World) -> None:
    owned = {tenant: [world.furnish(tenant) for _ in range(2)] for tenant in MARKS}
    for route in (each for each in SERVED if each.operation in LISTED):
        for tenant, (own, second) in owned.items():
            template = next(templates(route))
            others = [each for name in MARKS if name != tenant for more in owned[name] for each in more.values()]
            found: list[str] = []
            query: Json = {"limit": "1", "order": "asc"}
            while query:
                paged = Template(route, template.path, query).of(own)
                said = world.send(tenant, paged)
                assert said.status == 200, said.text
                assert not [each for each in others if each in said.text]
                assert not [mark for name, mark in MARKS.items() if name != tenant and mark in said.text]
                found += [each["id"] for each in said.json["data"]]
                query = {**query, "after": said.json["last_id"]} if said.json["has_more"] else {}
            whole = world.send(tenant, Template(route, template.path, {"limit": "100", "order": "asc"}).of(own)).json
            assert found == [each["id"] for each in whole["data"]]
            assert own[LISTED[route.operation]] in found
            if not template.places:
                assert second[LISTED[route.operation]] in found


# Keys that may only read


def test_a_key_that_only_reads_is_refused_by_every_route_that_writes(world: World) -> None:
    own, key = world.furnish(ONE), world.key(ONE, read_only=True)
    world.settle()
    before = world.events(ONE)
    for route in SERVED:
        for template in templates(route):
            said = world.send(ONE, template.of(own), key=key)
            if route.method == "GET":
                assert said.status == 200, f"{route.name}: {said.text}"
            else:
                assert (said.status, said.json["error"]["code"]) == (403, "read_only_key"), route.name
    assert world.events(ONE) == before


# The same ids and the same requests of two tenants


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Return a gate through which the handlers of servers go that start later."""
    made = Gate()
    patched = {name: made.through(handler) for name, handler in HANDLERS.items()}
    monkeypatch.setattr("threadledger.adapters.server.server.HANDLERS", patched)
    return made


@pytest.fixture
def sharing(gate: Gate, serving: Callable[..., Server], simulator: Any) -> Iterator[World]:
    """Yield a server whose requests go through the gate."""
    with World(serving(), simulator) as opened:
        yield opened


def writes() -> Iterator[Template]:
    """Yield each request that may store something; those that end an object come last."""
    yield from (each for route in WRITING if route.method != "DELETE" for each in templates(route))
    yield from (each for route in WRITING if route.method == "DELETE" for each in templates(route))


@pytest.mark.parametrize(("owner", "other"), SHARING, ids=str)
def test_one_idempotency_key_is_a_key_of_each_tenant(sharing: World, owner: str, other: str) -> None:
    own = {tenant: sharing.furnish(tenant, shared=True) for tenant in (owner, other)}
    for number, template in enumerate(each for each in writes() if each.route.method == "POST"):
        if template.route.operation in OF_WAITING:
            for tenant in own:
                own[tenant] |= sharing.waiting(tenant, own[tenant]["assistant_id"])
        named = {"idempotency-key": f"request-{number}"}
        first = sharing.send(owner, template.of(own[owner]), named)
        sharing.settle()
        before = sharing.events(owner)
        sent = template.of(own[other])
        second = sharing.send(other, sent, named)
        sharing.settle()
        what = f"{template.route.name}: {second.text}"
        assert (first.status, second.status) == (200, 200), what
        assert not [each for each in parts_of(owner, own[owner], own[other], sent) if each in second.text], what
        assert sharing.events(owner) == before, what
        again = sharing.send(other, sent, named)
        sharing.settle()
        assert again.ids & second.ids or again.text == second.text, what
        if template.route.operation.startswith("create_"):
            assert not first.ids & (second.ids | again.ids) - set(own[other].values()), what


@pytest.mark.parametrize(("owner", "other"), SHARING, ids=str)
def test_a_repeated_request_never_gets_the_answer_of_another_tenant(
    sharing: World, gate: Gate, owner: str, other: str
) -> None:
    own = {tenant: sharing.furnish(tenant, shared=True) for tenant in (owner, other)}
    key = {"Authorization": f"Bearer {sharing.key(owner)}"}
    for template in (each for each in writes() if each.route.method == "POST"):
        if template.route.operation in OF_WAITING:
            own[owner] |= sharing.waiting(owner, own[owner]["assistant_id"])
        sent = template.of(own[owner])
        gate.leave(sharing.server, sent.path.removeprefix("/v1"), sent.body, {**key, **sent.headers})
        sharing.settle()
        before = sharing.events(owner)
        said = sharing.send(other, sent, RETRY)
        sharing.settle()
        what = f"{template.route.name}: {said.status} {said.text}"
        is_own = all(own[owner][kind] == own[other].get(kind) for kind in map(template.kind, template.places))
        assert said.status == 200 if is_own else said.status in (400, 404), what
        assert not [each for each in parts_of(owner, own[owner], own[other], sent) if each in said.text], what
        is_kept = template.route.makes not in (CHAT, RESPONSE)  # these end with their client, and are made again
        assert not is_kept or sharing.events(owner) == before, what
        assert f'"key:{name_of_key(other)}"' not in str(sharing.events(owner)), what
        again = sharing.send(owner, sent, RETRY)  # it is matched: the answer is still waited for
        sharing.settle()
        assert again.status == 200, again.text
        assert not is_kept or sharing.events(owner) == before, what
        if template.route.operation.startswith("create_"):
            assert not again.ids & said.ids - set(own[other].values()), what


# Stored bytes

PICTURE = b"\x89PNG\r\n\x1a\n a picture of " + MARKS[ONE].encode()


def shapes_of(address: str, api: str) -> list[Json]:
    """Return content parts that could refer to stored bytes, in the form of an API."""
    stored = {"blob": address, "media_type": "image/png", "size": len(PICTURE)}
    if api in ("conversations", "responses"):
        return [
            {"type": "input_image", "image_url": address, "detail": "auto"},
            {"type": "input_image", "image_url": "https://host.invalid/a.png", "detail": "auto", **stored},
            {"type": "input_image", "file_id": address, "detail": "auto", **stored},
            {"type": "input_file", "file_id": address},
            {"type": "input_file", "filename": "a.png", "file_url": "https://host.invalid/a.png", **stored},
            {"type": "input_text", "text": "Look!", **stored, "file": stored},
        ]
    return [
        {"type": "image_url", "image_url": stored},
        {"type": "image_url", "image_url": stored | {"url": "https://host.invalid/a.png"}},
        {"type": "image_url", "image_url": {"url": address}},
        {"type": "image_file", "image_file": stored | {"file_id": address}},
        {"type": "file", "file": stored | {"filename": "a.png"}},
        {"type": "file", "file": {"file_id": address}},
        {"type": "input_audio", "input_audio": {"blob": address, "format": "wav"}},
        {"type": "text", "text": address},
    ]


def with_part(value: Any, part: Json) -> Any:
    """Return a body in which each message has a content part more."""
    if value == HELLO:
        kind = "input_text" if part["type"] in ("input_text", "input_image", "input_file") else "text"
        return {"role": "user", "content": [{"type": kind, "text": "Look!"}, part]}
    if isinstance(value, dict):
        return {name: with_part(inner, part) for name, inner in value.items()}
    return [with_part(inner, part) for inner in value] if isinstance(value, list) else value


def test_the_address_of_stored_bytes_in_a_body_leads_to_nothing(world: World) -> None:
    chat = world.ledger.conversation("tenant:acme/pictures")
    data = base64.b64encode(PICTURE).decode()
    chat.append("user", [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}])
    (address,) = {blob for each in chat.events() for blob in getattr(each, "blobs", None) or ()}
    own = world.furnish(LIKE_ONE)
    tried: Counter[str] = Counter()
    for route in (each for each in SERVED if FIELDS_WITH_CONTENT & set(each.fields)):
        template = next(templates(route))
        for part in shapes_of(address, route.api):
            body = with_part(template.body, part)
            assert body != template.body, f"{route.operation} needs a request with a message here"
            said = world.send(LIKE_ONE, Template(route, template.path, body=body).of(own))
            world.settle()
            tried[route.operation] += said.status == 200
            shown = said.text
            for thread in world.ask(LIKE_ONE, "list_threads")["data"]:
                shown += json.dumps(world.ask(LIKE_ONE, "list_messages", thread_id=thread["id"]))
            assert data not in shown, f"{route.operation} shows {part}"
    assert not [name for name, number in tried.items() if number < 2]
    assert not [each for each in world.simulator.requests if data in json.dumps(each.body)]
