"""Convert tools to the formats of the three APIs, and check requests.

The check before a request is sent (`preflight`) reports a named refusal instead of the provider's generic
`server_error`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.exchange import BackendRequest, ToolFunction
from threadledger.domain.failures import Cause, Failure

from .limits import ASSISTANT_TOOLS_MAX, CHAT_FUNCTIONS_MAX, HOSTED_TOOLS, INSTRUCTIONS_CHARS_MAX

# Source of names and sizes: OpenAI's OpenAPI description distributed with openai-python 3.3.1 (`FunctionObject`: name
# of a-z, A-Z, 0-9, underscores and dashes, at most 64 characters; parameters: a JSON schema). November 2026.
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def sent_tools(request: BackendRequest) -> list[dict[str, Any]]:
    """Return the offered tools of a request, with the values of their secrets.

    Raises:
        ProviderRefused: a secret has no value.
    """
    offered = offered_tools(request.profile, request.tools)
    if '"secret"' not in request.profile.tools_json:
        return offered
    from .tool_secrets import filled

    return filled(offered, request)


def offered_tools(profile: Profile, bound: Mapping[str, ToolFunction]) -> list[dict[str, Any]]:
    """Return the profile's tools for Chat Completions: the hosted tools and the bound functions."""
    offered = [tool for tool in _tools_of(profile) if tool["type"] != "function" or tool["function"]["name"] in bound]
    return [_under_valid_name(tool) for tool in offered]


def _under_valid_name(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function" or FUNCTION_NAME.fullmatch(tool["function"]["name"]):
        return tool
    from threadledger.domain.memory import valid_name  # loaded only if a name has to be changed

    return tool | {"function": tool["function"] | {"name": valid_name(tool["function"]["name"])}}


def _tools_of(profile: Profile) -> list[dict[str, Any]]:
    return profile.tools if profile.tools_json != "[]" else []  # most profiles have none, and nothing is parsed


def response_tools(request: BackendRequest) -> list[dict[str, Any]]:
    """Return `sent_tools` for the Responses API, which has a function's fields at the same level as its type."""
    return [
        {"type": "function", "strict": False} | tool["function"] if tool["type"] == "function" else tool
        for tool in sent_tools(request)
    ]


def lacks(
    kind: str, request: BackendRequest, is_home: bool = True, extra: Mapping[str, Any] | None = None
) -> list[str]:
    """Return what of the request a backend of this kind does not have: `tool:TYPE`, `part:TYPE` and `option:NAME`.

    Files exist at one endpoint only, so neither their ids nor tools that name them are sent to another (`is_home`).
    `extra` are the parameters of a named backend.
    """
    found = [f"tool:{tool_type}" for tool_type in _types_lacking(kind, request, is_home)]
    if has_options(request):
        from .options import options_lacking

        found += options_lacking(kind, request, extra or {})
    if not request.memory.has_parts:
        return found
    from threadledger.domain.exchange import number_of_stored_files

    parts = ["part:file"] if not is_home and number_of_stored_files(request.memory) else []
    return [*found, *dict.fromkeys([*parts, *request.memory.lost_parts(kind)[1]])]


def losses(kind: str, request: BackendRequest, is_home: bool = True) -> Mapping[str, int]:
    """Return how many parts in view a backend of this kind is not shown, by kind."""
    if not request.memory.has_parts:
        return {}
    if is_home:
        return request.memory.lost_parts(kind)[0]
    from threadledger.domain.exchange import names_stored_file

    return request.memory.lost_parts(kind, names_stored_file)[0]


def has_options(request: BackendRequest) -> bool:
    """Return whether a request has settings, metadata or other parameters; few have."""
    return request.profile.settings_json != "{}" or bool(request.metadata or request.extra)


def _types_lacking(kind: str, request: BackendRequest, is_home: bool) -> list[str]:
    taken = HOSTED_TOOLS.get(kind, frozenset()) | {"function"}
    tools = _tools_of(request.profile)
    found = {str(tool.get("type")) for tool in tools if tool.get("type") not in taken}
    if tools and not is_home:
        from threadledger.domain.exchange import names_stored_file

        hosted = (tool for tool in tools if tool.get("type") != "function")
        found |= {str(tool.get("type")) for tool in hosted if names_stored_file(tool)}
    return sorted(found)


def preflight(backend: str, request: BackendRequest, pinned: bool = False, *, is_home: bool = True) -> Failure | None:
    """Return the first problem of a request as a failure with status `refused`; None if there is none.

    The instructions and tools of a pinned assistant are not checked, because the profile does not define them.
    """
    if request.memory.is_empty:
        return _refused(Cause.EMPTY_MEMORY, "there is no message to answer")
    if has_options(request):
        from .options import refused_options

        if (refused := refused_options(backend, request)) is not None:
            return _refused(Cause.ASSISTANT_MISCONFIGURED, refused)
    if pinned:
        return None
    return (
        _instructions(backend, request)
        or _number_of_tools(backend, request)
        or _kinds_of_tools(backend, request, is_home)
        or _secrets_of_tools(backend, request)
    )


def _instructions(backend: str, request: BackendRequest) -> Failure | None:
    """Check the length of an assistant's instructions. For other backends the limit is the model's context window, which
    the provider reports with its own code."""
    length = len(request.profile.instructions)
    if backend != "assistants" or length <= INSTRUCTIONS_CHARS_MAX:
        return None
    message = f"the instructions have {length:,} characters, but {backend} accepts at most {INSTRUCTIONS_CHARS_MAX:,}"
    return _refused(Cause.INSTRUCTIONS_TOO_LONG, message)


def _number_of_tools(backend: str, request: BackendRequest) -> Failure | None:
    """Check the number of tools. An assistant gets all tools of the profile; other backends get only bound functions."""
    offered, allowed = _tools_of(request.profile), ASSISTANT_TOOLS_MAX
    if backend == "chat":
        offered = [tool for tool in offered_tools(request.profile, request.tools) if tool["type"] == "function"]
        allowed = CHAT_FUNCTIONS_MAX
    if backend in {"responses", "anthropic"} or len(offered) <= allowed:
        return None
    return _refused(Cause.TOO_MANY_TOOLS, f"there are {len(offered)} tools, but {backend} accepts at most {allowed}")


def _kinds_of_tools(backend: str, request: BackendRequest, is_home: bool) -> Failure | None:
    others = _types_lacking(backend, request, is_home)
    if not others:
        return None
    named = ", ".join(map(repr, others))
    taken = HOSTED_TOOLS.get(backend, frozenset()) | {"function"}
    message = f"{backend} does not accept tools of type {named}: use one of {', '.join(sorted(taken))}"
    if taken.issuperset(others):
        message = f"tools of type {named} name files that are stored at another endpoint: remove them from the profile"
    return _refused(Cause.TOOL_NOT_SUPPORTED, message)


def _secrets_of_tools(backend: str, request: BackendRequest) -> Failure | None:
    if '"secret"' not in request.profile.tools_json:
        return None
    from .tool_secrets import refused_secret

    found = refused_secret(backend, request)
    return _refused(Cause.ASSISTANT_MISCONFIGURED, found) if found is not None else None


def _refused(cause: Cause, message: str) -> Failure:
    return Failure("refused", code=cause.value, message=message)
