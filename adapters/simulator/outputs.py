"""Read scripted outputs, items in the form of the Responses API, and show them in the form of each API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..wire import ApiError, Json, items, objects, shapes
from ..wire.item_shapes import ITEMS
from ..wire.parts import ITEM_PARTS
from .ids import SeededIds

# What a script may leave out, by the type of the item.
_COMPLETED: Json = {"status": "completed"}
_DEFAULTS: Mapping[str, Json] = {
    "web_search_call": _COMPLETED,
    "file_search_call": _COMPLETED | {"queries": [], "results": None},
    "code_interpreter_call": _COMPLETED | {"container_id": "cntr_simulated", "code": None, "outputs": None},
    "image_generation_call": _COMPLETED,
    "mcp_call": _COMPLETED | {"output": None, "error": None},
    "reasoning": {"summary": []},
}
_PHASE = shapes.nullable(shapes.choice(*items.PHASES))
_STATUS = shapes.choice(*items.STATUSES)
_MESSAGE = shapes.record(
    {"type": shapes.anything, "content": shapes.anything},
    {"id": shapes.text(), "role": shapes.choice("assistant"), "status": _STATUS, "phase": _PHASE},
)
_CALL = shapes.record(
    {"type": shapes.anything, "name": shapes.text(), "arguments": shapes.anything},
    {"id": shapes.text(), "call_id": shapes.text(), "status": _STATUS},
)


def parse_items(values: list[Any], where: str) -> tuple[Json, ...]:
    """Return the items of a scripted output, complete but for ids that the script leaves out.

    A text is a message; a text in the content of a message is an output text; `arguments` may be an object. Raises
    `ApiError` for an item that no response can contain.
    """
    return tuple(_item(value, f"{where}[{index}]") for index, value in enumerate(values))


def _item(value: Any, where: str) -> Json:
    given: Any = {"type": "message", "content": value} if isinstance(value, str) else value
    shapes.tagged(_KINDS)(given, where)
    kind = given["type"]
    if kind == "message":
        return _message(given, where)
    if kind == "function_call":
        arguments = given["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {"status": "completed", **given, "arguments": text}
    complete = {**_DEFAULTS.get(kind, {}), **given}
    ITEMS[kind](
        {"id": "x", "call_id": "x", **complete} if kind == "custom_tool_call" else {"id": "x", **complete}, where
    )
    return complete


def _message(given: Json, where: str) -> Json:
    content = [given["content"]] if isinstance(given["content"], str) else given["content"]
    shapes.listed(minimum=1)(content, f"{where}.content")
    parts: list[Json] = []
    for index, part in enumerate(content):
        full = {"type": "output_text", "text": part} if isinstance(part, str) else part
        shapes.tagged({name: ITEM_PARTS[name] for name in items.OUTPUT_PARTS})(full, f"{where}.content[{index}]")
        parts.append({"annotations": [], "logprobs": [], **full} if full["type"] == "output_text" else full)
    return {"status": "completed", **given, "role": "assistant", "content": parts}


_KINDS: dict[str, shapes.Check] = {"message": _MESSAGE, "function_call": _CALL}
_KINDS |= {kind: shapes.anything for kind in ITEMS if not kind.endswith("_output")}


def with_ids(output: tuple[Json, ...], ids: SeededIds) -> list[Json]:
    """Return the items of an output as a response shows them: each has an id, and each call a call id."""
    shown: list[Json] = []
    for item in output:
        made = {"id": ids.long(items.id_prefix(item["type"])), **item}
        if item["type"] in ("function_call", "custom_tool_call"):
            made = {"call_id": ids.short("call_"), **made}
        shown.append(made)
    return shown


def parts_of(output: tuple[Json, ...]) -> list[Json]:
    """Return the parts of all messages of an output."""
    return [part for item in output if item["type"] == "message" for part in item["content"]]


def text_of(output: tuple[Json, ...]) -> str:
    """Return the texts of an output as one, with a line break between messages."""
    messages = (item["content"] for item in output if item["type"] == "message")
    texts = ("".join(part.get("text", "") for part in content) for content in messages)
    return "\n".join(filter(None, texts))


def chat_message(output: tuple[Json, ...], message: Json) -> tuple[Json, Json | None]:
    """Return a message of Chat Completions with what it can show of an output, and its probabilities of tokens.

    It shows the text, the refusal and citations of addresses; reasoning and calls of the provider's tools are not in
    this API.
    """
    found = parts_of(output)
    refusal = "".join(part.get("refusal", "") for part in found)
    cited = [each for part in found for each in part.get("annotations", ()) if each["type"] == "url_citation"]
    moved = [
        {"type": "url_citation", "url_citation": {name: value for name, value in each.items() if name != "type"}}
        for each in cited
    ]
    tokens = [{"bytes": None, **each} for part in found for each in part.get("logprobs", ())]
    shown = message | {"content": text_of(output) or None, "refusal": refusal or None, "annotations": moved}
    return shown, {"content": tokens, "refusal": None} if tokens else None


def thread_parts(output: tuple[Json, ...]) -> list[Json]:
    """Return the content of a thread's message: texts with citations of files, and refusals."""
    made: list[Json] = []
    for part in parts_of(output):
        if part["type"] == "refusal":
            made.append(part)
            continue
        shown = objects.text_part(part["text"])
        shown["text"]["annotations"] = [
            _thread_citation(each) for each in part["annotations"] if each["type"] in ("file_citation", "file_path")
        ]
        made.append(shown)
    return made


def _thread_citation(given: Json) -> Json:
    kind, at = given["type"], given["index"]
    return {"type": kind, "text": "", "start_index": at, "end_index": at, kind: {"file_id": given["file_id"]}}


def problem_of(error: ApiError) -> str:
    """Return the problem of an item in a script, which begins with the name of its field."""
    return f"{error.param}: {error.message}"
