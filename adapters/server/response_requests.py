"""Read requests for responses: the conversation, the input, and what becomes a profile or is passed on.

Values are checked as far as they have to be stored or shown: what else the provider would refuse is left to the provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from threadledger.domain.conversation import Profile, parse_profile
from threadledger.domain.conversation.messages import Message
from threadledger.domain.errors import InvalidProfile
from threadledger.domain.ledger import VectorStores
from threadledger.domain.memory.rendering import results_left_out

from ..wire import Json, bodies, store_bodies, validation
from ..wire.errors import bad_request, missing
from ..wire.limits import CHAT_TOOLS_MAX
from ..wire.options import RESPONSE_OPTIONS, check_options
from ..wire.shapes import anything, boolean, mapping, nullable, record, text, whole
from .calls import Served, ServedCall
from .conversations import with_references
from .file_search import FILE_SEARCH
from .files import with_files
from .hosted_tools import SERVER_RUN, checked_choice, checked_tools, require_dropping
from .ids import new_id
from .items import SEARCH_RESULTS, messages_in
from .limits import RESPONSE_SECONDS, RESPONSE_WINDOWS
from .vector_stores import no_such_store

RESPONSE = "resp_"

PASSED_ON = (
    *("parallel_tool_calls", "service_tier", "safety_identifier", "user"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)
"""Fields that a backend is sent if it speaks Chat Completions, which has them too."""

NOT_GIVEN = ("top_logprobs", "max_tool_calls", "context_management", "moderation", "prompt")
"""Fields that no backend is given: what they ask for is a loss of the run."""

SHOWN = (
    *("parallel_tool_calls", "service_tier", "prompt_cache_key", "safety_identifier", "user", "truncation", "text"),
    *("reasoning", "max_tool_calls", "top_logprobs", "tool_choice", "max_output_tokens"),
)
"""Fields that the object of the response shows as they were given."""

SHOWN_CHARS_MAX = 1_024
"""Length up to which the JSON of such a field is recorded, in characters."""

FUNCTION_FIELDS = record(
    {"type": anything, "name": text()},
    {"description": nullable(text()), "parameters": nullable(mapping(anything)), "strict": nullable(boolean)},
    closed=False,
)
"""Check of a function, which the object of the response shows; what else the provider would refuse of it is not known here."""

OWN_CHOICES = frozenset({"function", "custom", "allowed_tools"})
OWN_OPTIONS = {
    **{name: check for name, check in RESPONSE_OPTIONS.items() if name not in {"tools", "tool_choice"}},
    "max_tool_calls": whole(0),
}


@dataclass(frozen=True)
class WantedResponse:
    """Hold what a request for a response asks for, checked."""

    response_id: str
    model: str | None
    profile: Profile
    messages: Sequence[Message]
    """The messages of its input, before the data in them is stored."""
    conversation: str | None
    """Id of the conversation that it continues."""
    previous: str | None
    """Id of the response that it continues."""
    request: Json
    """What is recorded with it besides the profile."""
    metadata: Mapping[str, str]
    seconds: float
    is_stored: bool
    is_background: bool
    is_streamed: bool

    @property
    def unknown_results(self) -> list[str]:
        """Return the ids of calls whose results are among its messages, while the calls are not."""
        return results_left_out(self.messages)


def wanted_response(served: Served, call: ServedCall) -> WantedResponse:
    """Return what a request asks for.

    Raises:
        ApiError: a 400.
    """
    body = call.body
    check_options(body, OWN_OPTIONS)
    is_background = validation.flag(body, "background")
    is_stored = body.get("store") is not False
    if is_background and not is_stored:
        raise bad_request("Background mode requires 'store' to be true.", "background", "invalid_value")
    conversation = bodies.response_conversation(body)
    previous = validation.optional_string(body, "previous_response_id")
    if body.get("prompt") is not None:
        require_dropping("prompt", served.settings, "prompt")
    stores = searched_stores(served, call, body.get("tools"))
    profile, dropped = _profile(served, body)
    response_id = new_id(RESPONSE, call.request_key)
    is_streamed = validation.flag(body, "stream")
    request: Json = {"response_id": response_id, "background": is_background, "stream": is_streamed}
    request |= {"store": False} if not is_stored else {}
    request |= {name: given for name, given in (("conversation", conversation), ("previous", previous)) if given}
    request |= {"options": options} if (options := _options(body)) else {}
    request |= {"shown": shown} if (shown := _shown(body)) else {}
    request |= {"losses": losses} if (losses := [f"option:{name}" for name in NOT_GIVEN if body.get(name)]) else {}
    request |= {"dropped": dropped} if dropped else {}
    request |= {"vector_store_ids": stores} if stores else {}
    request |= {"include": include} if (include := _included(body)) else {}
    return WantedResponse(
        response_id,
        validation.optional_string(body, "model") or None,
        profile,
        input_messages(served, call),
        conversation,
        previous,
        request,
        validation.metadata_of(body),
        _seconds(body) if is_background else RESPONSE_SECONDS,
        is_stored,
        is_background,
        is_streamed,
    )


def input_messages(served: Served, call: ServedCall) -> list[Message]:
    """Return the messages of a request's input, with the files that they name.

    Raises:
        ApiError: a 400, or a 404 because a file is not the caller's.
    """
    items = with_references(served, call, call.body.get("input"), "input")
    given = messages_in(items, "input") if items is not None else []
    return [with_files(served, call.caller, each, "input") for each in given]


def _included(body: Json) -> list[str]:
    """Return what the object of the response shows besides, if the server knows it."""
    return [each for each in body.get("include") or () if each == SEARCH_RESULTS]


def searched_stores(served: Served, call: ServedCall, tools: Any) -> list[str]:
    """Return the vector stores that a search of files in these tools names, checked.

    Raises:
        ApiError: a 400, or a 404 because a vector store is not the caller's.
    """
    found: list[str] = []
    stores = VectorStores(served.journal_of(call.caller))
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, dict) or tool.get("type") != FILE_SEARCH:
            continue
        where = f"tools[{index}]"
        if tool.get("vector_store_ids") is None:
            raise missing(f"{where}.vector_store_ids")
        for place, each in enumerate(
            validation.array(tool["vector_store_ids"], f"{where}.vector_store_ids", of="strings")
        ):
            name = validation.string(each, f"{where}.vector_store_ids[{place}]")
            if stores.get(call.caller.tenant, name) is None:
                raise no_such_store(name)
            found.append(name)
        store_bodies.results_max(tool.get("max_num_results"), f"{where}.max_num_results")
        store_bodies.score_min(tool.get("ranking_options"), f"{where}.ranking_options")
        store_bodies.condition_of(tool.get("filters"), f"{where}.filters")
    return list(dict.fromkeys(found))


def _seconds(body: Json) -> float:
    window = (body.get("background_options") or {}).get("completion_window") or "soonest"
    if window not in RESPONSE_WINDOWS:
        window = validation.one_of(window, "background_options.completion_window", tuple(RESPONSE_WINDOWS))
    return RESPONSE_WINDOWS[window]


def _options(body: Json) -> Json:
    options = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    if "parallel_tool_calls" in options and not body.get("tools"):
        del options["parallel_tool_calls"]  # it is only allowed with tools
    verbosity = (body.get("text") or {}).get("verbosity")
    return options | ({"verbosity": verbosity} if verbosity is not None else {})


def _shown(body: Json) -> Json:
    given = {name: body[name] for name in SHOWN if body.get(name) is not None}
    return {name: value for name, value in given.items() if len(json.dumps(value)) <= SHOWN_CHARS_MAX}


def _profile(served: Served, body: Json) -> tuple[Profile, list[str]]:
    """Return the profile of a request, and the types of the tools that were left out."""
    tools, dropped = checked_tools(body.get("tools"), served.settings, maximum=CHAT_TOOLS_MAX, own=SERVER_RUN)
    for index, tool in enumerate(body.get("tools") or ()):
        if tool["type"] == "function":
            FUNCTION_FIELDS(tool, f"tools[{index}]")
    functions = [tool if tool["type"] in SERVER_RUN else chat_tool(tool) for tool in tools]
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else None
    if choice is not None and not (isinstance(kind, str) and kind not in OWN_CHOICES):
        RESPONSE_OPTIONS["tool_choice"](choice, "tool_choice")
    if isinstance(choice, dict) and kind in ("function", "custom") and "name" in choice:
        choice = {"type": choice["type"], str(choice["type"]): {"name": choice["name"]}}
    if not (isinstance(choice, dict) and kind == "allowed_tools"):
        choice, left_out = checked_choice(choice, functions, served.settings)
        dropped = [*dropped, *left_out]
    else:
        choice = choice.get("mode")
    settings: Json = {
        name: body[name] for name in ("temperature", "top_p", "max_output_tokens") if body.get(name) is not None
    }
    effort = (body.get("reasoning") or {}).get("effort")
    settings |= {"reasoning_effort": effort} if effort is not None else {}
    settings |= {"tool_choice": choice} if choice is not None and functions else {}
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        inner = {name: value for name, value in wanted.items() if name != "type" and value is not None}
        settings["response_format"] = {"type": "json_schema", "json_schema": inner}
    elif wanted.get("type") == "json_object":
        settings["response_format"] = wanted
    try:
        profile = parse_profile(
            {"tools": functions, "settings": settings, "instructions": body.get("instructions") or ""}, ""
        )
        profile.check()
    except InvalidProfile as error:
        raise bad_request(f"Invalid request: {error}") from error
    return profile, list(dict.fromkeys(dropped))


def chat_tool(tool: Json) -> Json:
    """Return a function in the form of Chat Completions."""
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": {"parameters": {"type": "object", "properties": {}}, **function}}


def response_tool(tool: Json) -> Json:
    """Return a tool of a profile in the form of Responses."""
    if tool.get("type") != "function":
        return tool
    function = tool.get("function") or {}
    names = {"description": None, "parameters": None, "strict": None}
    return {
        "type": "function",
        "name": function.get("name"),
        **{name: function.get(name, empty) for name, empty in names.items()},
    }


def settings_shown(profile: Profile, shown: Mapping[str, Any]) -> Json:
    """Return the fields of a response that its profile holds, in the form of the API."""
    settings = profile.settings
    made: Json = {name: settings[name] for name in ("temperature", "top_p", "max_output_tokens") if name in settings}
    made["text"] = {**(shown.get("text") or {}), "format": _format(settings.get("response_format"))}
    return made


def _format(given: Any) -> Json:
    if not isinstance(given, dict):
        return {"type": "text"}
    inner = given.get("json_schema")
    defaults = {"description": None, "strict": False}
    return {"type": "json_schema", **defaults, **inner} if isinstance(inner, dict) else given
