"""Handle /v1/threads and their messages."""

from __future__ import annotations

from ..wire import Json, bodies, errors, fields, objects, pages, validation
from .requests import SimulatedCall
from .store import ProviderStore, SimulatedThread


def create(store: ProviderStore, call: SimulatedCall) -> Json:
    """Create a thread (POST /threads)."""
    call.refuse_unknown_fields()
    record = new_thread(store, call.body)
    store.threads[record.object["id"]] = record
    return record.object


def new_thread(store: ProviderStore, body: Json, where: str = "") -> SimulatedThread:
    """Return a checked thread with its first messages, not yet stored by the provider.

    `where` is put before field names in error messages.
    """
    thread_id, now = store.ids.short("thread_"), store.now()
    metadata = validation.metadata_of(body)
    record = SimulatedThread(objects.thread(thread_id, now, metadata, body.get("tool_resources") or {}))
    for index, message in enumerate(validation.array(body.get("messages") or [], f"{where}messages")):
        place = f"{where}messages[{index}]"
        add_message(store, record, validation.an_object(message, place), f"{place}.")
    return record


def modify(store: ProviderStore, call: SimulatedCall) -> Json:
    """Replace the metadata and the tool resources of a thread, as given (POST /threads/{thread_id})."""
    thread = store.thread(call.ids["thread_id"]).object
    call.refuse_unknown_fields()
    if "metadata" in call.body:
        thread["metadata"] = validation.metadata_of(call.body)
    if "tool_resources" in call.body:
        thread["tool_resources"] = call.body["tool_resources"] or {}
    return thread


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a thread (GET /threads/{thread_id})."""
    return store.thread(call.ids["thread_id"]).object


def delete(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete a thread with its messages and runs (DELETE /threads/{thread_id})."""
    thread_id = store.thread(call.ids["thread_id"]).object["id"]
    del store.threads[thread_id]
    return objects.deletion(thread_id, "thread.deleted")


def create_message(store: ProviderStore, call: SimulatedCall) -> Json:
    """Append a message, unless a run is active (POST /threads/{thread_id}/messages)."""
    thread = store.thread(call.ids["thread_id"])
    call.refuse_unknown_fields()
    active = active_run(thread)
    if active is not None:
        thread_id = thread.object["id"]
        raise errors.bad_request(f"Can't add messages to {thread_id} while a run {active} is active.")
    return add_message(store, thread, call.body)


def list_messages(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of messages, of the thread or of one run (GET /threads/{thread_id}/messages)."""
    messages = store.thread(call.ids["thread_id"]).messages.values()
    run_id = call.query.get("run_id")
    return pages.page((m for m in messages if not run_id or m["run_id"] == run_id), call.query)


def retrieve_message(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a message (GET /threads/{thread_id}/messages/{message_id})."""
    return _find_message(store.thread(call.ids["thread_id"]), call.ids["message_id"])


def modify_message(store: ProviderStore, call: SimulatedCall) -> Json:
    """Replace the metadata of a message (POST /threads/{thread_id}/messages/{message_id})."""
    message = _find_message(store.thread(call.ids["thread_id"]), call.ids["message_id"])
    call.refuse_unknown_fields()
    message["metadata"] = validation.metadata_of(call.body)
    return message


def delete_message(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete a message (DELETE /threads/{thread_id}/messages/{message_id})."""
    thread = store.thread(call.ids["thread_id"])
    message_id = _find_message(thread, call.ids["message_id"])["id"]
    del thread.messages[message_id]
    return objects.deletion(message_id, "thread.message.deleted")


def active_run(thread: SimulatedThread) -> str | None:
    """Return the id of the thread's active run, or None.

    Only the newest run can be active: a thread has at most one active run.
    """
    if not thread.runs:
        return None
    newest = next(reversed(thread.runs.values())).object
    return None if newest["status"] in objects.RUN_ENDS else str(newest["id"])


def add_message(store: ProviderStore, thread: SimulatedThread, body: Json, where: str = "") -> Json:
    """Check a message from a request and append it; `where` is put before field names in error messages."""
    if where:
        validation.only_known(body, fields.THREAD_MESSAGE_FIELDS, where)
    attachments = bodies.message_attachments(body, where)
    role, content = bodies.message_role(body, where), bodies.message_content(body, where)
    message = new_message(store, thread, role, content)
    store.require_files(content, f"{where}content")
    for index, attached in enumerate(attachments):
        store.require_file(attached["file_id"], f"{where}attachments[{index}].file_id")
    message |= {"metadata": validation.metadata_of(body), "attachments": attachments}
    thread.messages[message["id"]] = message
    return message


def new_message(store: ProviderStore, thread: SimulatedThread, role: str, content: list[Json]) -> Json:
    """Return a complete message object that is not yet in the thread."""
    now = store.now()
    return objects.thread_message(store.ids.short("msg_"), now, thread.object["id"], role, content)


def _find_message(thread: SimulatedThread, message_id: str) -> Json:
    found = thread.messages.get(message_id)
    if found is None:
        raise errors.no_such("message", message_id)
    return found
