"""Handle /v1/responses: each response is returned at once, as a stream, or generated in the background.

A response is planned when it is created: `final` is how it will end, `object` is what is shown until then. It advances at
once, by one state each time it is retrieved (in the background), or event by event as its stream is read:

    queued -> in_progress -> completed | failed | incomplete | cancelled
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..wire import EventStream, Json, bodies, errors, events, items, objects, options, pages, sse, validation
from . import outputs
from .answers import (
    ScriptedAnswer,
    ScriptedEnd,
    ScriptedFailure,
    ScriptedIncompletion,
    answer_usage,
    echo,
    first_half,
    token_count,
)
from .conversations import append, require_free
from .requests import SimulatedCall
from .store import ProviderStore, SimulatedConversation, SimulatedResponse


def create(store: ProviderStore, call: SimulatedCall) -> Json | EventStream:
    """Create a response (POST /responses).

    Input and output are added to the conversation only when the response completes.
    """
    body = call.body
    call.refuse_unknown_fields()
    store.accept_model(validation.required_string(body, "model"))
    validation.stream_options(body, ("include_obfuscation",))
    if validation.flag(body, "background") and body.get("store") is False:
        raise errors.bad_request("Background mode requires 'store' to be true.", "background", "invalid_value")
    conversation = _conversation_of(store, body)
    if conversation is not None:
        require_free(conversation)
    earlier = _earlier_items(store, body, conversation)
    given = bodies.response_input(body, store.ids, has_context=bool(conversation or earlier))
    context = [*earlier, *given]
    # A deleted file is refused in the input, and where an earlier message names it.
    store.require_files(given, "input")
    store.require_files(earlier, "conversation" if conversation is not None else "previous_response_id")
    outputs_kept = (response.object["output"] for response in store.responses.values())
    added = (item for kept in store.conversations.values() for item in kept.items.values())
    items.require_known_reasoning(body.get("input"), outputs_kept, added)
    items.require_own_ids(context, "input")
    items.require_paired_calls(context)
    items.require_followed_reasoning(context)
    options.check_response_options(body, lambda: context)
    record = _plan(store, call, conversation, given, context)
    if body.get("store") is not False:
        store.responses[record.object["id"]] = record
    if conversation is not None:
        conversation.busy = record.object["id"]
    if validation.flag(body, "stream"):
        return response_stream(store, record)
    if not record.object["background"]:
        finish(store, record)
    return record.object


def retrieve(store: ProviderStore, call: SimulatedCall) -> Json | EventStream:
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
        raise errors.bad_request(message, "stream", "invalid_value")
    after = call.query.get("starting_after", "-1")
    if not re.fullmatch(r"-?[0-9]{1,9}", after):
        raise errors.wrong_type("starting_after", "an integer", after)
    return response_stream(store, record, int(after))


def cancel(store: ProviderStore, call: SimulatedCall) -> Json:
    """Cancel a background response (POST /responses/{response_id}/cancel); one that has ended does not change."""
    record = _find(store, call.ids["response_id"])
    if not record.object["background"]:
        raise errors.bad_request("Cannot cancel a synchronous response.")
    end(store, record, "cancelled")
    return record.object


def delete(store: ProviderStore, call: SimulatedCall) -> Json:
    """Delete a response (DELETE /responses/{response_id})."""
    record = _find(store, call.ids["response_id"])
    end(store, record, "cancelled")
    response_id = record.object["id"]
    del store.responses[response_id]
    return objects.deletion(response_id, "response")


def list_input_items(store: ProviderStore, call: SimulatedCall) -> Json:
    """Return a page of a response's input items (GET /responses/{response_id}/input_items)."""
    return pages.page(_find(store, call.ids["response_id"]).input, call.query)


def count_input_tokens(store: ProviderStore, call: SimulatedCall) -> Json:
    """Count the input tokens of a response without creating it (POST /responses/input_tokens)."""
    body = call.body
    call.refuse_unknown_fields()
    conversation = _conversation_of(store, body)
    earlier = _earlier_items(store, body, conversation)
    given = bodies.response_input(body, store.ids, has_context=True)
    count = _usage(body.get("instructions"), [*earlier, *given], [])["input_tokens"]
    return {"object": "response.input_tokens", "input_tokens": count}


def _find(store: ProviderStore, response_id: str) -> SimulatedResponse:
    found = store.responses.get(response_id)
    if found is None:
        raise errors.not_found("Response", response_id)
    return found


def _conversation_of(store: ProviderStore, body: Json) -> SimulatedConversation | None:
    """Return the conversation that the request names, or None."""
    conversation_id = bodies.response_conversation(body)
    return None if conversation_id is None else store.conversation(conversation_id)


def _earlier_items(store: ProviderStore, body: Json, conversation: SimulatedConversation | None) -> list[Json]:
    """Return the items of the conversation, or of the chain of responses before this one, oldest first."""
    if conversation is not None:
        return list(conversation.items.values())
    previous_id = validation.optional_string(body, "previous_response_id")
    chain: list[list[Json]] = []
    while previous_id is not None:
        record = store.responses.get(previous_id)
        if record is None:
            message = f"Previous response with id '{previous_id}' not found."
            raise errors.bad_request(message, "previous_response_id", "previous_response_not_found")
        chain.append([*record.input, *record.object["output"]])
        previous_id = record.object["previous_response_id"]
    return [item for turn in reversed(chain) for item in turn]


def _plan(
    store: ProviderStore,
    call: SimulatedCall,
    conversation: SimulatedConversation | None,
    given: list[Json],
    context: list[Json],
) -> SimulatedResponse:
    body, tools = call.body, bodies.response_tools(call.body)
    response_id, now = store.ids.long("resp_"), store.now()
    metadata = validation.metadata_of(body)
    conversation_id = conversation.object["id"] if conversation else None
    final = objects.response(response_id, now, body, tools=tools, metadata=metadata, conversation_id=conversation_id)
    _decide_end(store, call, final, context)
    begun = "queued" if final["background"] else "in_progress"
    shown = final | objects.UNFINISHED | {"status": begun, "output": []}
    return SimulatedResponse(shown, given, final, validation.flag(body, "stream"))


def _decide_end(store: ProviderStore, call: SimulatedCall, response: Json, context: list[Json]) -> None:
    question = items.last_user_text(context)
    match call.outcome:
        case ScriptedFailure(code, message):
            response |= {"status": "failed", "error": {"code": code, "message": message}}
            return
        case ScriptedEnd(status):
            response["status"] = status
            return
        case ScriptedIncompletion(reason):
            partial = items.answer_message(store.ids.long("msg_"), first_half(echo(question).text), "incomplete")
            response |= {"status": "incomplete", "incomplete_details": {"reason": reason}, "output": [partial]}
        case _:
            answer = store.answers.next(question, options.text_format(response))
            response |= {"status": "completed", "completed_at": store.now(), "output": _output(store, answer)}
            response["usage"] = _usage(response["instructions"], context, response["output"], answer)
            return
    response["usage"] = _usage(response["instructions"], context, response["output"])


def _output(store: ProviderStore, answer: ScriptedAnswer) -> list[Json]:
    if answer.output:
        return outputs.with_ids(answer.output, store.ids)
    calls = [
        items.function_call(store.ids.long("fc_"), store.ids.short("call_"), scripted.name, scripted.arguments)
        for scripted in answer.tool_calls
    ]
    return calls or [items.answer_message(store.ids.long("msg_"), answer.text)]


def _usage(instructions: Any, context: list[Json], output: list[Json], answer: ScriptedAnswer | None = None) -> Json:
    """Return the tokens of the input and the output, counted in words unless the answer's script says otherwise."""
    given = token_count(instructions) if isinstance(instructions, str) else 0
    given += sum(token_count(items.item_text(item)) for item in context)
    written = sum(token_count(items.item_text(item)) for item in output)
    return objects.response_usage(*answer_usage(answer or ScriptedAnswer(), given, written))


def advance(store: ProviderStore, record: SimulatedResponse) -> None:
    """Advance a background response by one state; other responses advance as their stream is read."""
    if record.final is None or not record.object["background"]:
        return
    if record.object["status"] == "queued":
        record.object["status"] = "in_progress"
    else:
        finish(store, record)


def finish(store: ProviderStore, record: SimulatedResponse) -> None:
    """End a response as planned.

    A completed response is added to its conversation, together with its input.
    """
    final, record.final = record.final, None
    if final is None:
        return
    record.object |= final
    if final["status"] == "completed":
        record.object["completed_at"] = store.now()
    _release_conversation(store, record, joins=final["status"] == "completed")


def end(store: ProviderStore, record: SimulatedResponse, status: str) -> None:
    """End a response early as `cancelled` or `failed`; a response that has ended does not change."""
    if record.final is None:
        return
    record.final = None
    record.object["status"] = status
    if status == "failed":
        record.object["error"] = {"code": "server_error", "message": "The stream was interrupted."}
    _release_conversation(store, record, joins=False)


def _release_conversation(store: ProviderStore, record: SimulatedResponse, *, joins: bool) -> None:
    """Let the conversation accept items again; with `joins`, add the response's input and output to it."""
    response: Json = record.object
    held = response["conversation"]
    conversation = store.conversations.get(held["id"]) if held else None
    if conversation is None:
        return
    if conversation.busy == response["id"]:
        conversation.busy = None
    if joins:
        append(conversation, [*record.input, *response["output"]])


def response_stream(store: ProviderStore, record: SimulatedResponse, after: int = -1) -> EventStream:
    """Return a stream of the events with a sequence number above `after`, including events of the past."""

    def abandon(status: str) -> None:
        # A response ends without its reader; a background response continues when it is retrieved.
        if not record.object["background"] or status == "failed":
            end(store, record, status)

    return EventStream("responses", _frames(store, record, after), abandon)


def _frames(store: ProviderStore, record: SimulatedResponse, after: int) -> Iterator[bytes]:
    response_id = record.object["id"]
    # The events follow from the end, so a reader who comes later gets the same ones.
    final = record.final if record.final is not None else dict(record.object)
    for number, event in enumerate(events.response_events(final)):
        if record.object["status"] == "cancelled":
            return
        kind = event["type"]
        if kind == "response.in_progress" and record.object["status"] == "queued":
            record.object["status"] = "in_progress"
        if kind in events.TERMINAL:
            finish(store, record)
            event["response"] = record.object
        if response_id in store.responses:
            store.responses.touch(response_id)
        if number > after:
            yield sse.frame({**event, "sequence_number": number}, kind)
    # A response that is planned to end as cancelled has no final event.
    finish(store, record)
