"""Read the input of a response: its conversation, the responses before it and its input items."""

from typing import Any

from .call import Json
from .errors import bad_request, wrong_type
from .items import normalised
from .store import ConversationRecord, Store
from .validation import an_object, optional_string, required_string


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
