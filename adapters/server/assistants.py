"""Handle /v1/assistants: assistants are profiles of the ledger, with the fields that only the API knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.ledger import AssistantRecord, AssistantStore

from ..wire import Json, bodies, objects
from ..wire.errors import no_such
from ..wire.validation import required_string
from .calls import Handler, Served, ServedCall, deleted_once
from .file_search import FILE_SEARCH
from .hosted_tools import SERVER_RUN, checked_tools
from .ids import new_id
from .pages import PageQuery, page_of
from .tool_resources import check_search_tools, resources_of, stores_in

SETTINGS = ("temperature", "top_p", "reasoning_effort", "response_format")
"""Fields of an assistant that are settings of its profile, which has only those that were given."""

DEFAULT_FORMAT = "auto"


def create_assistant(served: Served, call: ServedCall) -> Json:
    """Create an assistant (POST /assistants); a repeated request returns what the first one created."""
    model = required_string(call.body, "model")
    created = _changed(
        AssistantRecord(
            new_id("asst_", call.request_key), model, Profile(name="", instructions=""), call.caller.tenant
        ),
        served,
        call,
    )
    return assistant_object(_assistants(served, call).create(created, call.idempotency_key, call.also))


def modify_assistant(served: Served, call: ServedCall) -> Json:
    """Change the given fields of an assistant (POST /assistants/{assistant_id}); the others keep their values."""
    assistant_id = call.ids["assistant_id"]
    changed = _assistants(served, call).modify(
        call.caller.tenant, assistant_id, lambda record: _changed(record, served, call), call.idempotency_key, call.also
    )
    if changed is None:
        raise no_such("assistant", assistant_id)
    return assistant_object(changed)


def retrieve_assistant(served: Served, call: ServedCall) -> Json:
    """Return an assistant (GET /assistants/{assistant_id})."""
    return assistant_object(assistant_of(served, call, call.ids["assistant_id"]))


def list_assistants(served: Served, call: ServedCall) -> Json:
    """Return a page of the caller's assistants (GET /assistants)."""
    query, assistants = PageQuery.of(call.query), _assistants(served, call)
    tenant = call.caller.tenant
    found, has_more = assistants.page(tenant, query.page(lambda name: assistants.place(tenant, name)))
    return page_of([assistant_object(each) for each in found], query, has_more)


def delete_assistant(served: Served, call: ServedCall) -> Json:
    """Delete an assistant (DELETE /assistants/{assistant_id}); runs that used it remain."""
    assistant_id = call.ids["assistant_id"]

    def delete_now() -> None:
        if not _assistants(served, call).delete(call.caller.tenant, assistant_id, call.also):
            raise no_such("assistant", assistant_id)

    return deleted_once(served, call, delete_now, objects.deletion(assistant_id, "assistant.deleted"))


HANDLERS_OF_ASSISTANTS: Mapping[str, Handler] = {
    "create_assistant": create_assistant,
    "modify_assistant": modify_assistant,
    "retrieve_assistant": retrieve_assistant,
    "list_assistants": list_assistants,
    "delete_assistant": delete_assistant,
}


def assistant_of(served: Served, call: ServedCall, assistant_id: str) -> AssistantRecord:
    """Return an assistant of the caller's tenant.

    Raises:
        ApiError: a 404, because there is none with this id.
    """
    found = _assistants(served, call).get(call.caller.tenant, assistant_id)
    if found is None:
        raise no_such("assistant", assistant_id)
    return found


def assistant_object(record: AssistantRecord) -> Json:
    """Return the provider's object of an assistant, with the tools that it has and the default of what was not given."""
    profile, created = record.profile, record.created_at
    shown = objects.assistant(record.assistant_id, int(created.timestamp()) if created is not None else 0, record.model)
    shown |= {"name": profile.name or None, "description": record.description, "tools": profile.tools}
    searches = any(each.get("type") == FILE_SEARCH for each in profile.tools)
    if searches and (stores := stores_in(record.tool_resources)):
        shown["tool_resources"] = {FILE_SEARCH: {"vector_store_ids": stores}}
    shown |= {"instructions": profile.instructions or None, "metadata": dict(record.metadata)}
    return shown | {name: profile.settings[name] for name in SETTINGS if name in profile.settings}


def _assistants(served: Served, call: ServedCall) -> AssistantStore:
    return AssistantStore(served.journal_of(call.caller))


def _changed(record: AssistantRecord, served: Served, call: ServedCall) -> AssistantRecord:
    """Return an assistant with the fields that a request gives.

    Raises:
        ApiError: a 400, because a field is not valid, or names a tool that the settings refuse.
    """
    body = dict(call.body)
    tools, dropped = checked_tools(body.get("tools"), served.settings, own=SERVER_RUN)
    resources, of_resources = resources_of(served, call, body.get("tool_resources"))
    if "tools" in body:
        check_search_tools(tools)
        body["tools"] = tools
    given = bodies.assistant_values(body)
    left_out = [*(dropped if "tools" in body else record.dropped), *of_resources]
    return replace(
        record,
        model=given.get("model", record.model),
        profile=_profile(record.profile, given),
        description=given.get("description", record.description),
        tool_resources={**(given["tool_resources"] or {}), **resources}
        if "tool_resources" in given
        else record.tool_resources,
        dropped=tuple(dict.fromkeys(left_out)),
        metadata=given.get("metadata", record.metadata),
    )


def _profile(profile: Profile, given: Mapping[str, Any]) -> Profile:
    """Return a profile with the given fields; null stands for no value, or for the default."""
    settings = profile.settings
    for name in SETTINGS:
        value = given.get(name)
        if name in given:
            settings.pop(name, None)
        if value is not None and value != DEFAULT_FORMAT:
            settings[name] = value
    return replace(
        profile,
        name=given.get("name", profile.name) or "",
        instructions=given.get("instructions", profile.instructions) or "",
        tools_json=json.dumps(given["tools"]) if "tools" in given else profile.tools_json,
        settings_json=json.dumps({name: settings[name] for name in SETTINGS if name in settings}),
    )
