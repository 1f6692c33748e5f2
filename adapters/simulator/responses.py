"""Handle /v1/responses: each response is returned at once, as a stream, or made in the background."""

import re

from .call import Call, Json
from .conversations import require_free
from .errors import bad_request, not_found, wrong_type
from .items import require_paired_calls
from .pages import page
from .response_input import conversation_of, input_items, previous_items
from .response_life import advance, end, finish, streamed
from .response_objects import planned, usage_of
from .store import ResponseRecord, Store
from .streams import EventStream
from .validation import flag, only_known, required_string, stream_options

FIELDS = (
    "metadata", "top_logprobs", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "previous_response_id", "model", "background",
    "background_options", "max_tool_calls", "text", "tools", "tool_choice", "prompt", "service_tier", "truncation",
    "reasoning", "input", "include", "parallel_tool_calls", "store", "instructions", "moderation", "stream",
    "stream_options", "conversation", "context_management", "max_output_tokens",
)  # fmt: skip


COUNT_FIELDS = (
    "model", "input", "previous_response_id", "tools", "text", "reasoning", "truncation", "instructions",
    "conversation", "tool_choice", "parallel_tool_calls", "personality",
)  # fmt: skip


def create(store: Store, call: Call) -> Json | EventStream:
    """Create a response (POST /responses).

    Input and output are added to the conversation only when the response completes.
    """
    body = call.body
    only_known(body, FIELDS)
    store.accept_model(required_string(body, "model"))
    stream_options(body, ("include_obfuscation",))
    if flag(body, "background") and body.get("store") is False:
        raise bad_request("Background mode requires 'store' to be true.", "background", "invalid_value")
    conversation = conversation_of(store, body)
    if conversation is not None:
        require_free(conversation)
    earlier = previous_items(store, body, conversation)
    given = input_items(store, body, has_context=bool(conversation or earlier))
    context = [*(conversation.items.values() if conversation else earlier), *given]
    require_paired_calls(context)
    record = planned(store, call, conversation, given, context)
    if body.get("store") is not False:
        store.responses[record.object["id"]] = record
    if conversation is not None:
        conversation.busy = record.object["id"]
    if flag(body, "stream"):
        return streamed(store, record)
    if not record.object["background"]:
        finish(store, record)
    return record.object


def retrieve(store: Store, call: Call) -> Json | EventStream:
    """Return a response or its stream (GET /responses/{response_id}).

    A background response first advances by one state. A stream starts after event number `starting_after`.
    """
    record = _find(store, call.ids["response_id"])
    if not call.wants_stream:
        advance(store, record)
        return record.object
    if not (record.streamed and record.object["background"]):
        message = (
            "This response cannot be streamed because it was not created with 'background' and 'stream' set to true."
        )
        raise bad_request(message, "stream", "invalid_value")
    after = call.query.get("starting_after", "-1")
    if not re.fullmatch(r"-?[0-9]{1,9}", after):
        raise wrong_type("starting_after", "an integer", after)
    return streamed(store, record, int(after))


def cancel(store: Store, call: Call) -> Json:
    """Cancel a background response (POST /responses/{response_id}/cancel); one that has ended does not change."""
    record = _find(store, call.ids["response_id"])
    if not record.object["background"]:
        raise bad_request("Cannot cancel a synchronous response.")
    end(store, record, "cancelled")
    return record.object


def delete(store: Store, call: Call) -> Json:
    """Delete a response (DELETE /responses/{response_id})."""
    record = _find(store, call.ids["response_id"])
    end(store, record, "cancelled")
    response_id = record.object["id"]
    del store.responses[response_id]
    return {"id": response_id, "object": "response", "deleted": True}


def list_input_items(store: Store, call: Call) -> Json:
    """Return a page of a response's input items (GET /responses/{response_id}/input_items)."""
    return page(_find(store, call.ids["response_id"]).input, call.query)


def count_input_tokens(store: Store, call: Call) -> Json:
    """Count the input tokens of a response without creating it (POST /responses/input_tokens)."""
    body = call.body
    only_known(body, COUNT_FIELDS)
    conversation = conversation_of(store, body)
    earlier = previous_items(store, body, conversation)
    given = input_items(store, body, has_context=True)
    context = [*(conversation.items.values() if conversation else earlier), *given]
    count = usage_of(body.get("instructions"), context, [])["input_tokens"]
    return {"object": "response.input_tokens", "input_tokens": count}


def _find(store: Store, response_id: str) -> ResponseRecord:
    found = store.responses.get(response_id)
    if found is None:
        raise not_found("Response", response_id)
    return found
