"""Handle /v1/responses: each response is returned at once, as a stream, or made in the background."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .answers import End, Failure, Incomplete, echo, first_half, token_count
from .call import Call, Json
from .conversations import keep, require_free
from .errors import bad_request, not_found, wrong_type
from .pages import page
from .store import ConversationRecord, ResponseRecord, Store
from .streams import EventStream, frame, pieces
from .validation import (
    an_object,
    answer_message,
    array,
    flag,
    function_call,
    item_text,
    last_user_text,
    metadata_of,
    normalised,
    only_known,
    optional_string,
    require_paired_calls,
    required_string,
    stream_options,
)

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


def advance(store: Store, record: ResponseRecord) -> None:
    """Advance a background response by one state; other responses advance as their stream is read."""
    if record.final is None or not record.object["background"]:
        return
    if record.object["status"] == "queued":
        record.object["status"] = "in_progress"
    else:
        finish(store, record)


def finish(store: Store, record: ResponseRecord) -> None:
    """End a response as planned.

    A completed response is added to its conversation, together with its input.
    """
    final, record.final = record.final, None
    if final is None:
        return
    record.object |= final
    if final["status"] == "completed":
        record.object["completed_at"] = store.now()
    _leave(store, record, joins=final["status"] == "completed")


def end(store: Store, record: ResponseRecord, status: str) -> None:
    """End a response early as `cancelled` or `failed`; a response that has ended does not change."""
    if record.final is None:
        return
    record.final = None
    record.object["status"] = status
    if status == "failed":
        record.object["error"] = {"code": "server_error", "message": "The stream was interrupted."}
    _leave(store, record, joins=False)


def streamed(store: Store, record: ResponseRecord, after: int = -1) -> EventStream:
    """Return a stream of the events with a sequence number above `after`, including events of the past."""

    def abandon(status: str) -> None:
        # A response ends without its reader; a background response continues when it is retrieved.
        if not record.object["background"] or status == "failed":
            end(store, record, status)

    return EventStream("responses", _frames(store, record, after), abandon)


def _frames(store: Store, record: ResponseRecord, after: int) -> Iterator[bytes]:
    response_id = record.object["id"]
    for number, event in enumerate(events_of(record)):
        if record.object["status"] == "cancelled":
            return
        kind = event["type"]
        if kind == "response.in_progress" and record.object["status"] == "queued":
            record.object["status"] = "in_progress"
        if kind in TERMINAL:
            finish(store, record)
            event["response"] = record.object
        if response_id in store.responses:
            store.responses.touch(response_id)
        if number > after:
            yield frame({**event, "sequence_number": number}, kind)
    # A response that is planned to end as cancelled has no final event.
    finish(store, record)


def _leave(store: Store, record: ResponseRecord, *, joins: bool) -> None:
    response: Json = record.object
    held = response["conversation"]
    conversation = store.conversations.get(held["id"]) if held else None
    if conversation is None:
        return
    if conversation.busy == response["id"]:
        conversation.busy = None
    if joins:
        keep(conversation, [*record.input, *response["output"]])


UNDER_WAY: Json = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}


def planned(
    store: Store, call: Call, conversation: ConversationRecord | None, given: list[Json], context: list[Json]
) -> ResponseRecord:
    """Create a response: `object` shows it in progress, and `final` is how it will end."""
    final = _new(store, call.body, conversation)
    _finish(store, call, final, context)
    begun = "queued" if final["background"] else "in_progress"
    return ResponseRecord(final | UNDER_WAY | {"status": begun, "output": []}, given, final, flag(call.body, "stream"))


def _new(store: Store, body: Json, conversation: ConversationRecord | None) -> Json:
    tools = array(body.get("tools") or [], "tools")
    for index, tool in enumerate(tools):
        required_string(an_object(tool, f"tools[{index}]"), "type", f"tools[{index}].type")
    # A null in the request means the default; other values are kept unchanged.
    defaults: Json = {"temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "parallel_tool_calls": True}
    defaults |= {"truncation": "disabled", "service_tier": "default", "text": {"format": {"type": "text"}}}
    defaults |= {"reasoning": {"effort": None, "summary": None}, "store": True, "max_output_tokens": None}
    defaults |= {"max_tool_calls": None, "user": None, "safety_identifier": None, "prompt_cache_key": None}
    response: Json = {"id": store.seeded.long("resp_"), "object": "response", "created_at": store.now()}
    response |= {"status": "completed", "completed_at": None, "background": flag(body, "background"), "error": None}
    response |= {"incomplete_details": None, "output": [], "usage": None, "model": body["model"], "tools": tools}
    response |= {"instructions": body.get("instructions"), "metadata": metadata_of(body)}
    response |= {"previous_response_id": body.get("previous_response_id")}
    response |= {"conversation": {"id": conversation.object["id"]} if conversation else None}
    return response | {name: default if body.get(name) is None else body[name] for name, default in defaults.items()}


def _finish(store: Store, call: Call, response: Json, context: list[Json]) -> None:
    asked = last_user_text(context)
    match call.outcome:
        case Failure(code, message):
            response |= {"status": "failed", "error": {"code": code, "message": message}}
            return
        case End(status):
            response["status"] = status
            return
        case Incomplete(reason):
            partial = answer_message(store.seeded, first_half(echo(asked).text), "incomplete")
            response |= {"status": "incomplete", "incomplete_details": {"reason": reason}, "output": [partial]}
        case _:
            answer = store.answers.next(asked)
            calls = [function_call(store.seeded, c.name, c.arguments) for c in answer.tool_calls]
            output = calls or [answer_message(store.seeded, answer.text)]
            response |= {"status": "completed", "completed_at": store.now(), "output": output}
    response["usage"] = usage_of(response["instructions"], context, response["output"])


def usage_of(instructions: Any, context: list[Json], output: list[Json]) -> Json:
    """Return the tokens of the input and the output, counted in words."""
    given = token_count(instructions) if isinstance(instructions, str) else 0
    given += sum(token_count(item_text(item)) for item in context)
    spent = sum(token_count(item_text(item)) for item in output)
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": spent,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + spent,
    }


def conversation_of(store: Store, body: Json) -> ConversationRecord | None:
    """Return the conversation that the request names, or None."""
    wanted = body.get("conversation")
    if wanted is None:
        return None
    if body.get("previous_response_id") is not None:
        message = (
            "Mutually exclusive parameters: Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'."
        )
        raise bad_request(message, None, "mutually_exclusive_parameters")
    if isinstance(wanted, str):
        return store.conversation(wanted)
    return store.conversation(required_string(an_object(wanted, "conversation"), "id", "conversation.id"))


def previous_items(store: Store, body: Json, conversation: ConversationRecord | None) -> list[Json]:
    """Return the input and output of the chain of responses before this one, oldest first."""
    previous_id = optional_string(body, "previous_response_id") if conversation is None else None
    chain: list[list[Json]] = []
    while previous_id is not None:
        record = store.responses.get(previous_id)
        if record is None:
            message = f"Previous response with id '{previous_id}' not found."
            raise bad_request(message, "previous_response_id", "previous_response_not_found")
        chain.append([*record.input, *record.object["output"]])
        previous_id = record.object["previous_response_id"]
    return [item for turn in reversed(chain) for item in turn]


def input_items(store: Store, body: Json, *, has_context: bool) -> list[Json]:
    """Return the items of `input` with ids.

    The field may be absent if the request has earlier context or a prompt.
    """
    given: Any = body.get("input")
    if given is None:
        if not has_context and body.get("prompt") is None:
            raise bad_request(
                "One of 'input', 'previous_response_id', 'prompt' or 'conversation' must be provided.",
                "input",
                "missing_required_parameter",
            )
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise wrong_type("input", "one of a string or array of objects", given)
    return [normalised(item, f"input[{index}]", store.seeded) for index, item in enumerate(given)]


TERMINAL = ("response.completed", "response.failed", "response.incomplete")


def events_of(record: ResponseRecord) -> Iterator[Json]:
    """Yield the events from `response.created` to the end, without sequence numbers.

    A cancelled response has no final event.
    """
    final = record.final if record.final is not None else dict(record.object)
    begun = final | UNDER_WAY | {"output": []}
    if final["background"]:
        yield {"type": "response.created", "response": begun | {"status": "queued"}}
        yield {"type": "response.queued", "response": begun | {"status": "queued"}}
    else:
        yield {"type": "response.created", "response": begun | {"status": "in_progress"}}
    yield {"type": "response.in_progress", "response": begun | {"status": "in_progress"}}
    for index, item in enumerate(final["output"]):
        yield from _message(item, index) if item["type"] == "message" else _function_call(item, index)
    if f"response.{final['status']}" in TERMINAL:
        yield {"type": f"response.{final['status']}", "response": final}


def _message(item: Json, index: int) -> Iterator[Json]:
    where = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    yield _item("added", index, item | {"status": "in_progress", "content": []})
    yield {"type": "response.content_part.added", **where, "part": part | {"text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": part}
    yield _item("done", index, item)


def _function_call(item: Json, index: int) -> Iterator[Json]:
    where = {"item_id": item["id"], "output_index": index}
    yield _item("added", index, item | {"status": "in_progress", "arguments": ""})
    for piece in pieces(item["arguments"]):
        yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
    done = {"name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.function_call_arguments.done", **where, **done}
    yield _item("done", index, item)


def _item(what: str, index: int, item: Json) -> Json:
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}
