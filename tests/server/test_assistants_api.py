"""The handlers of /v1/assistants: every field, pages, tenants, repeated requests, and tools that a provider would run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from freezegun import freeze_time

from threadledger.adapters.server import Caller, Served, ServedCall, ServeSettings
from threadledger.adapters.server.assistants import HANDLERS_OF_ASSISTANTS
from threadledger.adapters.server.runner import Runner
from threadledger.adapters.wire import APIS, ApiError
from threadledger.adapters.wire.routes import ROUTES
from threadledger.domain.conversation.events import AssistantDefined
from threadledger.domain.ledger import AssistantStore, Ledger

ONE, TWO, NONE = Caller("k1", "one"), Caller("k2", "two"), Caller()
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
EVERY_FIELD = {
    "model": "gpt-4o",
    "name": "John",
    "description": "Helps.",
    "instructions": "Be kind.",
    "tools": [WEATHER],
    "metadata": {"team": "a"},
    "temperature": 0.3,
    "top_p": 0.9,
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
}


class Api:
    """Call the handlers as the server does."""

    def __init__(self, ledger: Ledger, hosted_tools: str = "refuse") -> None:
        self.served = Served(ledger, ServeSettings(hosted_tools), Runner(ledger))
        self.requests = 0

    def __call__(
        self,
        operation: str,
        caller: Caller = NONE,
        body: dict[str, Any] | None = None,
        key: str | None = None,
        assistant_id: str = "",
        **query: str,
    ) -> Any:
        self.requests += 1
        call = ServedCall(ids={"assistant_id": assistant_id}, query=query, body=body or {}, caller=caller)
        call.request_key = key or f"request-{self.requests}"
        call.also = self.served.runner.notes.note(call.request_key, f"of {call.request_key}")
        return HANDLERS_OF_ASSISTANTS[operation](self.served, call)

    def create(self, caller: Caller = NONE, key: str | None = None, **body: Any) -> dict[str, Any]:
        created: dict[str, Any] = self("create_assistant", caller, {"model": "gpt-4o"} | body, key)
        return created


@pytest.fixture
def api(open_ledger: Callable[..., Ledger]) -> Api:
    return Api(open_ledger())


@pytest.fixture
def dropping(open_ledger: Callable[..., Ledger]) -> Api:
    return Api(open_ledger(), "drop")


def refused(status: int, call: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.status == status
    return caught.value


def test_every_operation_of_assistants_has_a_handler() -> None:
    assert "assistants" in APIS
    assert {each.operation for each in ROUTES if each.segments[0] == "assistants"} == set(HANDLERS_OF_ASSISTANTS)


def test_an_assistant_has_every_field_that_was_given_and_the_default_of_the_others(api: Api) -> None:
    with freeze_time("2026-11-30 10:00:00.9"):
        created, plain = api.create(**EVERY_FIELD), api.create()
    at = int(datetime(2026, 11, 30, 10, tzinfo=UTC).timestamp())
    defaults = {"name": None, "description": None, "instructions": None, "tools": [], "metadata": {}}
    defaults |= {"temperature": 1.0, "top_p": 1.0, "response_format": "auto"}
    assert created == EVERY_FIELD | {
        "id": created["id"],
        "object": "assistant",
        "created_at": at,
        "tool_resources": {},
    }
    assert plain == defaults | {
        "id": plain["id"],
        "object": "assistant",
        "created_at": at,
        "model": "gpt-4o",
        "tool_resources": {},
    }
    for each in (created, plain):
        assert api("retrieve_assistant", assistant_id=each["id"]) == each


def test_the_sdk_reads_the_object_and_knows_all_of_its_fields(api: Api) -> None:
    from openai.types.beta import Assistant

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = Assistant.model_validate(api.create(**EVERY_FIELD), strict=True)
    assert set(Assistant.model_fields) <= read.model_fields_set
    assert read.tools[0].type == "function"


def test_the_profile_has_only_what_was_given(api: Api) -> None:
    stored = AssistantStore(api.served.ledger.journal)
    given, plain = (stored.get("", api.create(**body)["id"]) for body in (EVERY_FIELD, {"response_format": "auto"}))
    assert given is not None
    assert plain is not None
    assert given.profile.settings == {
        "temperature": 0.3,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
    }
    assert (given.profile.model, given.profile.tools, plain.profile.settings) == (None, [WEATHER], {})


def test_a_change_keeps_what_it_does_not_name_and_null_clears(api: Api) -> None:
    created = api.create(**EVERY_FIELD)
    path = {"assistant_id": created["id"]}
    changed = api("modify_assistant", body={"name": "Jane", "model": None}, **path)
    assert changed == created | {"name": "Jane"}
    cleared = api(
        "modify_assistant",
        body={"name": None, "temperature": None, "tools": None, "metadata": None, "response_format": "auto"},
        **path,
    )
    expected = {"name": None, "temperature": 1.0, "tools": [], "metadata": {}, "response_format": "auto"}
    assert cleared == changed | expected == api("retrieve_assistant", **path)


def test_a_repeated_request_finds_what_the_first_one_made(api: Api) -> None:
    created = api.create(key="k")
    assert api.create(key="k") == created
    assert api.create()["id"] != created["id"]
    path = {"assistant_id": created["id"]}
    first = api("modify_assistant", body={"name": "A"}, key="m1", **path)
    api("modify_assistant", body={"name": "B"}, key="m2", **path)
    assert api("modify_assistant", body={"name": "A"}, key="m1", **path) == first
    assert api("retrieve_assistant", **path)["name"] == "B"


def test_a_request_is_noted_in_the_transaction_of_what_it_stores(api: Api) -> None:
    created = api.create(key="k")
    api("modify_assistant", body={"name": "A"}, key="m", assistant_id=created["id"])
    refused(400, lambda: api("create_assistant", body={}, key="wrong"))
    notes = api.served.runner.notes
    assert [notes.fingerprint_of(key) for key in ("k", "m", "wrong")] == ["of k", "of m", None]


def test_a_deleted_assistant_and_an_unknown_one_are_404(api: Api) -> None:
    created = api.create()
    path = {"assistant_id": created["id"]}
    assert api("delete_assistant", **path) == {"id": created["id"], "object": "assistant.deleted", "deleted": True}
    for assistant_id in (created["id"], "asst_none", "a\0"):
        for operation in ("retrieve_assistant", "modify_assistant", "delete_assistant"):
            refusal = refused(404, lambda o=operation, i=assistant_id: api(o, assistant_id=i))
            assert refusal.message == f"No assistant found with id '{assistant_id}'."
    assert api("list_assistants")["data"] == []


def test_another_tenants_assistant_is_404_and_in_no_list(api: Api) -> None:
    created = api.create(ONE, key="k")
    path = {"assistant_id": created["id"]}
    assert api("retrieve_assistant", ONE, **path) == created
    for caller in (TWO, NONE):
        for operation in ("retrieve_assistant", "modify_assistant", "delete_assistant"):
            refused(404, lambda o=operation, c=caller: api(o, c, {"name": "x"}, **path))
        assert api("list_assistants", caller)["data"] == []
        refused(400, lambda c=caller: api("list_assistants", c, after=created["id"]))
    assert api("list_assistants", ONE)["data"] == [created]


def test_the_actor_of_the_events_is_the_name_of_the_key(api: Api) -> None:
    created = api.create(ONE)
    (event,) = api.served.ledger.journal.stream(f"assistant:one/{created['id']}")
    assert isinstance(event, AssistantDefined)
    assert (event.actor, event.tenant) == ("key:k1", "one")


def test_pages_are_read_by_id_in_both_directions(api: Api) -> None:
    made = [api.create()["id"] for _ in range(5)]
    newest = made[::-1]
    page = api("list_assistants", limit="2")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (newest[:2], True)
    assert (page["object"], page["first_id"], page["last_id"]) == ("list", newest[0], newest[1])
    rest = api("list_assistants", limit="0", after=page["last_id"])
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (newest[2:3], True)
    rest = api("list_assistants", limit="1000", after=page["last_id"])
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (newest[2:], False)
    back = api("list_assistants", limit="2", before=newest[4])
    assert ([each["id"] for each in back["data"]], back["has_more"]) == (newest[2:4], True)
    oldest = api("list_assistants", order="asc", limit="3", after=made[0])
    assert [each["id"] for each in oldest["data"]] == made[1:4]
    refusal = refused(400, lambda: api("list_assistants", before="asst_none"))
    assert (refusal.param, refusal.message) == (
        "before",
        "Invalid 'before': no object with id 'asst_none' in this list.",
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": 7}, "model"),
        ({"model": "m", "name": "x" * 257}, "name"),
        ({"model": "m", "temperature": 3}, "temperature"),
        ({"model": "m", "tools": [{"type": "function"}]}, "tools[0].function"),
        ({"model": "m", "tools": [WEATHER] * 129}, "tools"),
        ({"model": "m", "metadata": {"a": 1}}, "metadata.a"),
        ({"model": "m", "tool_resources": []}, "tool_resources"),
    ],
)
def test_a_wrong_field_is_refused_by_name_and_nothing_is_stored(api: Api, body: dict[str, Any], param: str) -> None:
    assert refused(400, lambda: api("create_assistant", body=body)).param == param
    assert api("list_assistants")["data"] == []


# Tools that a provider would run


HOSTED = {"tools": [{"type": "web_search"}, WEATHER, {"type": "retrieval"}]}
FILES = {"tool_resources": {"code_interpreter": {"file_ids": ["file-1"]}}}


def test_an_assistant_with_a_hosted_tool_is_refused_by_name_and_nothing_is_stored(api: Api) -> None:
    refusal = refused(400, lambda: api.create(**HOSTED))
    assert (refusal.code, refusal.param) == ("unsupported_tool", "tools[0].type")
    assert "'web_search'" in refusal.message
    refusal = refused(400, lambda: api.create(**FILES))
    assert (refusal.code, refusal.param) == ("unsupported_tool", "tool_resources.code_interpreter")
    assert api("list_assistants")["data"] == []
    created = api.create()
    refused(400, lambda: api("modify_assistant", body=HOSTED, assistant_id=created["id"]))
    assert api("retrieve_assistant", assistant_id=created["id"]) == created


def test_a_dropped_tool_is_recorded_and_not_shown(dropping: Api) -> None:
    created = dropping.create(**HOSTED, **FILES)
    assert (created["tools"], created["tool_resources"]) == ([WEATHER], {})
    stored = AssistantStore(dropping.served.ledger.journal)
    record = stored.get("", created["id"])
    assert record is not None
    assert record.dropped == ("web_search", "retrieval", "code_interpreter")
    assert record.tool_resources == FILES["tool_resources"]
    dropping("modify_assistant", body={"name": "A"}, assistant_id=created["id"])
    kept = stored.get("", created["id"])
    assert kept is not None
    assert kept.dropped == record.dropped
    dropping("modify_assistant", body={"tools": [{"type": "mcp"}]}, assistant_id=created["id"])
    replaced = stored.get("", created["id"])
    assert replaced is not None
    assert (replaced.dropped, replaced.profile.tools) == (("mcp",), [])
