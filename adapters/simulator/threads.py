"""Handle /v1/threads and their messages."""

from __future__ import annotations

from typing import Any

from .call import Call, Json
from .errors import THREAD_MESSAGE_MAX_CHARS, THREAD_ROLES, bad_request, empty_array, missing, no_such, wrong_type
from .pages import page
from .store import Store, ThreadRecord
from .validation import an_object, array, metadata_of, one_of, only_known, required_string, string

MESSAGE_FIELDS = ("role", "content", "attachments", "metadata")
CONTENT_TYPES = ("text", "image_url", "image_file")
ENDS = ("completed", "failed", "incomplete", "expired", "cancelled")


def create(store: Store, call: Call) -> Json:
    """Create a thread (POST /threads)."""
    record = new_thread(store, call.body)
    store.threads[record.object["id"]] = record
    return record.object


def new_thread(store: Store, body: Json) -> ThreadRecord:
    """Return a checked thread with its first messages, not yet stored by the provider."""
    only_known(body, ("messages", "tool_resources", "metadata"))
    created: Json = {"id": store.seeded.short("thread_"), "object": "thread", "created_at": store.now()}
    created |= {"metadata": metadata_of(body), "tool_resources": body.get("tool_resources") or {}}
    record = ThreadRecord(created)
    for index, message in enumerate(array(body.get("messages") or [], "messages")):
        add_message(store, record, an_object(message, f"messages[{index}]"), f"messages[{index}].")
    return record


def modify(store: Store, call: Call) -> Json:
    """Replace the metadata and the tool resources of a thread, as given (POST /threads/{thread_id})."""
    thread = store.thread(call.ids["thread_id"]).object
    only_known(call.body, ("tool_resources", "metadata"))
    if "metadata" in call.body:
        thread["metadata"] = metadata_of(call.body)
    if "tool_resources" in call.body:
        thread["tool_resources"] = call.body["tool_resources"] or {}
    return thread


def retrieve(store: Store, call: Call) -> Json:
    """Return a thread (GET /threads/{thread_id})."""
    return store.thread(call.ids["thread_id"]).object


def delete(store: Store, call: Call) -> Json:
    """Delete a thread with its messages and runs (DELETE /threads/{thread_id})."""
    thread_id = store.thread(call.ids["thread_id"]).object["id"]
    del store.threads[thread_id]
    return {"id": thread_id, "object": "thread.deleted", "deleted": True}


def create_message(store: Store, call: Call) -> Json:
    """Append a message, unless a run is active (POST /threads/{thread_id}/messages)."""
    thread = store.thread(call.ids["thread_id"])
    only_known(call.body, MESSAGE_FIELDS)
    active = active_run(thread)
    if active is not None:
        thread_id = thread.object["id"]
        raise bad_request(f"Can't add messages to {thread_id} while a run {active} is active.")
    return add_message(store, thread, call.body)


def list_messages(store: Store, call: Call) -> Json:
    """Return a page of messages, of the thread or of one run (GET /threads/{thread_id}/messages)."""
    messages = store.thread(call.ids["thread_id"]).messages.values()
    run_id = call.query.get("run_id")
    return page((m for m in messages if not run_id or m["run_id"] == run_id), call.query)


def retrieve_message(store: Store, call: Call) -> Json:
    """Return a message (GET /threads/{thread_id}/messages/{message_id})."""
    return _message(store.thread(call.ids["thread_id"]), call.ids["message_id"])


def modify_message(store: Store, call: Call) -> Json:
    """Replace the metadata of a message (POST /threads/{thread_id}/messages/{message_id})."""
    message = _message(store.thread(call.ids["thread_id"]), call.ids["message_id"])
    only_known(call.body, ("metadata",))
    message["metadata"] = metadata_of(call.body)
    return message


def delete_message(store: Store, call: Call) -> Json:
    """Delete a message (DELETE /threads/{thread_id}/messages/{message_id})."""
    thread = store.thread(call.ids["thread_id"])
    message_id = _message(thread, call.ids["message_id"])["id"]
    del thread.messages[message_id]
    return {"id": message_id, "object": "thread.message.deleted", "deleted": True}


def active_run(thread: ThreadRecord) -> str | None:
    """Return the id of the thread's active run, or None.

    Only the newest run can be active: a thread has at most one active run.
    """
    if not thread.runs:
        return None
    newest = next(reversed(thread.runs.values())).object
    return None if newest["status"] in ENDS else str(newest["id"])


def add_message(store: Store, thread: ThreadRecord, body: Json, where: str = "") -> Json:
    """Check a message from a request and append it; `where` is put before field names in error messages."""
    role = one_of(required_string(body, "role", f"{where}role"), f"{where}role", THREAD_ROLES)
    content = _content(body.get("content"), f"{where}content")
    message = new_message(store, thread, role, content)
    message |= {"metadata": metadata_of(body), "attachments": body.get("attachments") or []}
    thread.messages[message["id"]] = message
    return message


def new_message(store: Store, thread: ThreadRecord, role: str, content: list[Json]) -> Json:
    """Return a complete message object that is not yet in the thread."""
    now = store.now()
    return {
        "id": store.seeded.short("msg_"),
        "object": "thread.message",
        "created_at": now,
        "thread_id": thread.object["id"],
        "status": "completed",
        "completed_at": now,
        "incomplete_at": None,
        "incomplete_details": None,
        "role": role,
        "content": content,
        "assistant_id": None,
        "run_id": None,
        "attachments": [],
        "metadata": {},
    }


def text_part(text: str) -> Json:
    """Return text as a content part of a thread's message."""
    return {"type": "text", "text": {"value": text, "annotations": []}}


def _content(content: Any, param: str) -> list[Json]:
    if content is None:
        raise missing(param)
    if isinstance(content, str):
        if not content:
            raise bad_request("Message content must be non-empty.", param)
        return [text_part(string(content, param, THREAD_MESSAGE_MAX_CHARS))]
    if not isinstance(content, list):
        raise wrong_type(param, "one of a string or array of objects", content)
    if not content:
        raise empty_array(param)
    return [_part(part, f"{param}[{index}]") for index, part in enumerate(content)]


def _part(part: Any, where: str) -> Json:
    kind = one_of(an_object(part, where).get("type"), f"{where}.type", CONTENT_TYPES)
    if kind != "text":
        return {"type": kind, kind: an_object(part.get(kind), f"{where}.{kind}")}
    return text_part(required_string(part, "text", f"{where}.text", THREAD_MESSAGE_MAX_CHARS))


def _message(thread: ThreadRecord, message_id: str) -> Json:
    found = thread.messages.get(message_id)
    if found is None:
        raise no_such("message", message_id)
    return found
