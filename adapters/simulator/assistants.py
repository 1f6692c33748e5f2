"""Handle /v1/assistants, the provider's copies of profiles."""

from __future__ import annotations

from typing import Any

from .call import Call, Json
from .errors import (
    ASSISTANT_DESCRIPTION_MAX_CHARS,
    ASSISTANT_NAME_MAX_CHARS,
    ASSISTANT_TOOL_TYPES,
    ASSISTANT_TOOLS_MAX,
    INSTRUCTIONS_MAX_CHARS,
)
from .pages import page
from .store import Store
from .validation import an_object, array, metadata_of, one_of, only_known, optional_string, required_string

FIELDS = (
    "model", "name", "description", "instructions", "reasoning_effort", "tools", "tool_resources", "metadata",
    "temperature", "top_p", "response_format",
)  # fmt: skip


def create(store: Store, call: Call) -> Json:
    """Create an assistant (POST /assistants)."""
    body = call.body
    only_known(body, FIELDS)
    model = store.accept_model(required_string(body, "model"))
    created: Json = {"id": store.seeded.short("asst_"), "object": "assistant", "created_at": store.now()}
    created |= {"name": None, "description": None, "model": model, "instructions": None, "tools": [], "metadata": {}}
    created |= {"tool_resources": {}, "temperature": 1.0, "top_p": 1.0, "response_format": "auto"}
    created |= _checked(body)
    store.assistants[created["id"]] = created
    return created


def modify(store: Store, call: Call) -> Json:
    """Change the given fields of an assistant (POST /assistants/{assistant_id}); the others keep their values."""
    assistant = store.assistant(call.ids["assistant_id"])
    only_known(call.body, FIELDS)
    if call.body.get("model") is not None:
        store.accept_model(required_string(call.body, "model"))
    assistant |= _checked(call.body)
    return assistant


def retrieve(store: Store, call: Call) -> Json:
    """Return an assistant (GET /assistants/{assistant_id})."""
    return store.assistant(call.ids["assistant_id"])


def list_(store: Store, call: Call) -> Json:
    """Return a page of assistants (GET /assistants)."""
    return page(store.assistants.values(), call.query)


def delete(store: Store, call: Call) -> Json:
    """Delete an assistant (DELETE /assistants/{assistant_id})."""
    assistant_id = store.assistant(call.ids["assistant_id"])["id"]
    del store.assistants[assistant_id]
    return {"id": assistant_id, "object": "assistant.deleted", "deleted": True}


def checked_tools(value: Any, maximum: int = ASSISTANT_TOOLS_MAX) -> list[Json]:
    """Return `value` if it is a list of tools that the Assistants API accepts.

    A function needs a name.
    """
    tools = array(value, "tools", maximum)
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if one_of(an_object(tool, where).get("type"), f"{where}.type", ASSISTANT_TOOL_TYPES) == "function":
            function = an_object(tool.get("function"), f"{where}.function")
            required_string(function, "name", f"{where}.function.name")
    return tools


def _checked(body: Json) -> Json:
    optional_string(body, "name", ASSISTANT_NAME_MAX_CHARS)
    optional_string(body, "description", ASSISTANT_DESCRIPTION_MAX_CHARS)
    optional_string(body, "instructions", INSTRUCTIONS_MAX_CHARS)
    given = {name: body[name] for name in FIELDS if name in body}
    if "tools" in given:
        given["tools"] = checked_tools(given["tools"] or [])
    if "metadata" in given:
        given["metadata"] = metadata_of(body)
    if given.get("model", "") is None:
        del given["model"]
    return given
