"""Hold small histories that models, imports and earlier versions have left in journals, and that strict servers refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Stored = Mapping[str, Any]
"""The fields of a stored `MessageJournaled` that say what was said."""

HELLO: Stored = {"role": "user", "content": "Hello."}


def calling(*calls: Any, content: Any = None, **extra: Any) -> Stored:
    """Return a message with tool calls of any shape, as they are stored: in `extra`, unless all have the usual one."""
    usual = all(
        isinstance(call, dict) and call.keys() == {"id", "type", "function"} and isinstance(call["function"], dict)
        and call["function"].keys() == {"name", "arguments"} and isinstance(call["function"]["arguments"], str)
        for call in calls
    )  # fmt: skip
    where: Stored = {"tool_calls": list(calls)} if usual else {"extra": {"tool_calls": list(calls), **extra}}
    return {"role": "assistant", "content": content, **where}


def call(arguments: Any = "{}", name: str = "f", call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(call_id: str = "call_1", content: Any = "12") -> Stored:
    return {"role": "tool", "content": content, "tool_call_id": call_id}


def said(role: str, content: Any, **extra: Any) -> Stored:
    return {"role": role, "content": content} | ({"extra": extra} if extra else {})


def shown(*parts: Any, role: str = "user") -> Sequence[Stored]:
    return [{"role": role, "content": list(parts)}]


def answered(*calls: Any) -> Sequence[Stored]:
    return [HELLO, calling(*calls), *(result(str(each.get("id") or "none")) for each in calls)]


AUDIO = {"id": "audio_1", "data": "AAAA", "transcript": "spoken words", "expires_at": 1}
POISONED: Mapping[str, Sequence[Stored]] = {
    "arguments broken off": answered(call('{"value": ')),
    "arguments are a list": answered(call("[1]")),
    "arguments are a string in JSON": answered(call('"Bern"')),
    "arguments are a stored object": answered(call({"a": 1})),
    "arguments are empty": answered(call("")),
    "arguments are null in text": answered(call("null")),
    "arguments hold NaN": answered(call('{"a": NaN}')),
    "arguments hold a number that is too large": answered(call('{"a": [1e999, {"b": -1e400}]}')),
    "arguments hold half a character": answered(call('{"a": "\\ud83d"}')),
    "arguments are nested too deeply": answered(call('{"a":' * 2000 + "1" + "}" * 2000)),
    "arguments are missing": answered({"id": "call_1", "type": "function", "function": {"name": "f"}}),
    "a name with a dot": answered(call('{"tool_uses": []}', "multi_tool_use.parallel")),
    "a name with blanks": answered(call(name="Look it up")),
    "a name that is too long": answered(call(name="f" * 80)),
    "no name": answered(call(name="")),
    "two calls with one id": [HELLO, calling(call(), call()), result(), result(content="13")],
    "an id used again in a later turn": [*answered(call()), HELLO, *answered(call())[1:]],
    "an id that is too long": answered(call(call_id="c" * 90)),
    "an id of another server": answered(call(call_id="functions.f:0")),
    "a call without id": [HELLO, calling({"type": "function", "function": {"name": "f", "arguments": "{}"}}), result()],
    "a call without type": answered({"id": "call_1", "function": {"name": "f", "arguments": "{}"}}),
    "a call with an index": answered(call() | {"index": 0}),
    "a custom call": answered({"id": "call_1", "type": "custom", "custom": {"name": "grep", "input": "parcel"}}),
    "a call that is no object": [HELLO, calling("f()", 1)],
    "a call without result": [HELLO, calling(call()), HELLO],
    "a result without call": [HELLO, result()],
    "a second result": [*answered(call()), result(content="13")],
    "a result that is null": [HELLO, calling(call()), result(content=None)],
    "a result with an image": [HELLO, calling(call()), result(content=[{"type": "image_url", "image_url": {"url": "u"}}])],
    "a function call of 2023": [
        HELLO, said("assistant", None, function_call={"name": "get_w", "arguments": {"a": 1}}), said("function", "12"),
    ],
    "a spoken answer": [said("assistant", None, audio=AUDIO)],
    "a spoken answer without words": [said("assistant", None, audio={"id": "audio_1"})],
    "only a refusal": [said("assistant", None, refusal="I cannot do that.")],
    "recorded sound of an unknown format": shown({"type": "input_audio", "input_audio": {"data": "…", "format": "ogg"}}),
    "recorded sound without data": shown({"type": "input_audio", "input_audio": {"format": "wav"}}),
    "content blocks of Anthropic": [
        HELLO,
        *shown({"type": "text", "text": "let me look"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
               role="assistant"),
        *shown({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "12"}]}),
    ],
    "an image of Anthropic": shown(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    ),
    "an image as a string": shown({"type": "image_url", "image_url": "https://x.test/a.png"}),
    "an image of the Responses API": shown({"type": "input_image", "image_url": "https://x.test/a.png"}),
    "an image without an address": shown({"type": "image_url", "image_url": {"url": "file-service://file-1"}}),
    "an image in a data URL": shown({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
    "an image with an unknown detail": shown(
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "ultra"}}
    ),
    "an image of an assistant": shown(
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}, role="assistant"
    ),
    "an image file": shown({"type": "image_file", "image_file": {"file_id": "file-1"}}),
    "a file without id": shown({"type": "file", "file": {"file_id": ""}}),
    "a file with its data": shown({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:text/csv;base64,AAAA"}}),
    "a page that was read": shown({"type": "tether_quote", "text": "the text of the page", "url": "https://x.test"}),
    "spoken words of a phone": shown({"type": "audio_transcription", "text": "spoken words"}),
    "a thought": shown({"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, role="assistant"),
    "a part without type": shown({"value": 1}),
    "a text with annotations": shown({"type": "output_text", "text": "It is.", "annotations": []}, role="assistant"),
    "a text in an object": shown({"type": "text", "text": {"value": "It is.", "annotations": []}}, role="assistant"),
    "empty content": [said("assistant", ""), said("user", "  \n"), said("assistant", []), said("user", None)],
    "an empty part": shown({"type": "text", "text": ""}, role="system"),
    "a name of a person": [said("user", "Hello.", name="Eva Müller <eva@x.test>")],
    "a name that is null": [said("user", "Hello.", name=None)],
    "fields of other APIs": [said("assistant", "It is.", annotations=[1], tool_calls=None, reasoning_content="hm")],
    "an unknown role": [said("critic", "Hm.")],
}  # fmt: skip
