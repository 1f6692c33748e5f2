"""/v1/responses: one call in, one finished response out."""

from typing import Any

from .answers import echo, first_half, token_count
from .call import Call, Json
from .conversations import keep
from .errors import bad_request, not_found, wrong_type
from .items import answer_message, function_call, item_text, last_user_text, normalised, require_paired_calls
from .outcomes import End, Failure, Incomplete
from .pages import page
from .store import ConversationRecord, ResponseRecord, Store
from .validation import an_object, array, metadata_of, only_known, optional_string, required_string

FIELDS = (
    "metadata", "top_logprobs", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "previous_response_id", "model", "background",
    "background_options", "max_tool_calls", "text", "tools", "tool_choice", "prompt", "service_tier", "truncation",
    "reasoning", "input", "include", "parallel_tool_calls", "store", "instructions", "moderation", "stream",
    "stream_options", "conversation", "context_management", "max_output_tokens",
)  # fmt: skip


def create(store: Store, call: Call) -> Json:
    """POST /responses. Input and output join the conversation only if the response completes."""
    body = call.body
    only_known(body, FIELDS)
    model = store.accept_model(required_string(body, "model"))
    conversation = _conversation(store, body)
    earlier = _previous(store, body, conversation)
    given = _input(store, body, bool(conversation or earlier))
    context = [*(conversation.items.values() if conversation else earlier), *given]
    require_paired_calls(context)
    response = _new(store, body, model, conversation)
    _finish(store, call, response, context)
    if body.get("store") is not False:
        store.responses[response["id"]] = ResponseRecord(response, given)
    if conversation is not None and response["status"] == "completed":
        keep(conversation, [*given, *response["output"]])
    return response


def retrieve(store: Store, call: Call) -> Json:
    """GET /responses/{response_id}."""
    return _find(store, call.ids["response_id"]).object


def delete(store: Store, call: Call) -> Json:
    """DELETE /responses/{response_id}."""
    response_id = _find(store, call.ids["response_id"]).object["id"]
    del store.responses[response_id]
    return {"id": response_id, "object": "response", "deleted": True}


def list_input_items(store: Store, call: Call) -> Json:
    """GET /responses/{response_id}/input_items."""
    return page(_find(store, call.ids["response_id"]).input, call.query)


def _conversation(store: Store, body: Json) -> ConversationRecord | None:
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


def _previous(store: Store, body: Json, conversation: ConversationRecord | None) -> list[Json]:
    """The input and output of the chain of responses before this one, oldest first."""
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


def _input(store: Store, body: Json, has_context: bool) -> list[Json]:
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


def _new(store: Store, body: Json, model: str, conversation: ConversationRecord | None) -> Json:
    tools = array(body.get("tools") or [], "tools")
    for index, tool in enumerate(tools):
        required_string(an_object(tool, f"tools[{index}]"), "type", f"tools[{index}].type")
    # Null in a request means the default; what the caller gave stands as it was given.
    defaults: Json = {"temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "parallel_tool_calls": True}
    defaults |= {"truncation": "disabled", "service_tier": "default", "text": {"format": {"type": "text"}}}
    defaults |= {"reasoning": {"effort": None, "summary": None}, "store": True, "max_output_tokens": None}
    defaults |= {"max_tool_calls": None, "user": None, "safety_identifier": None, "prompt_cache_key": None}
    response: Json = {"id": store.seeded.long("resp_"), "object": "response", "created_at": store.now()}
    response |= {"status": "completed", "completed_at": None, "background": False, "error": None}
    response |= {"incomplete_details": None, "output": [], "usage": None, "model": model, "tools": tools}
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
    response["usage"] = _usage(response["instructions"], context, response["output"])


def _usage(instructions: Any, context: list[Json], output: list[Json]) -> Json:
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


def _find(store: Store, response_id: str) -> ResponseRecord:
    found = store.responses.get(response_id)
    if found is None:
        raise not_found("Response", response_id)
    return found
