"""Build responses: their planned final form, and the form that is shown until then."""

from typing import Any

from .answers import echo, first_half, token_count
from .call import Call, Json
from .items import answer_message, function_call, item_text, last_user_text
from .outcomes import End, Failure, Incomplete
from .store import ConversationRecord, ResponseRecord, Store
from .validation import an_object, array, flag, metadata_of, required_string

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
