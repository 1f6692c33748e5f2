"""Find the tools in requests that only the provider could run, and refuse them or leave them out as the settings say.

Nothing is accepted and then ignored: what is left out is returned by its type, and the caller records it. A function is the
only kind of tool that the app runs itself, so that any backend can offer it; `file_search` is one that the server runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..wire import ApiError, Json
from ..wire.errors import bad_request, missing
from ..wire.limits import ASSISTANT_TOOLS_MAX
from ..wire.validation import an_object, array, only_known, string
from .file_search import FILE_SEARCH
from .serve_settings import ServeSettings

FUNCTION = "function"
SERVER_RUN = frozenset({FILE_SEARCH})
"""Types of tools that the server runs itself, in the APIs that have them."""

NEEDS_TOOLS = "required"
WEB_SEARCH = "web_search"


def checked_tools(
    tools: Any,
    settings: ServeSettings,
    where: str = "tools",
    maximum: int = ASSISTANT_TOOLS_MAX,
    own: Collection[str] = (),
) -> tuple[list[Json], list[str]]:
    """Return the functions among the tools of a request, and the types of the tools that were left out.

    `where` is the name of the field, `own` are types of tools that are returned too. The tools themselves are not checked.

    Raises:
        ApiError: a 400, because the value is no list of tools, or has a tool that the settings refuse.
    """
    given = array(tools, where, maximum) if tools is not None else []
    types = [_type_of(tool, f"{where}[{index}]") for index, tool in enumerate(given)]
    others = {index: kind for index, kind in enumerate(types) if kind != FUNCTION and kind not in own}
    if others:
        index, kind = next(iter(others.items()))
        require_dropping(kind, settings, f"{where}[{index}].type")
    return [tool for index, tool in enumerate(given) if index not in others], _distinct(others.values())


def checked_choice(
    choice: Any, functions: Sequence[Json], settings: ServeSettings, where: str = "tool_choice"
) -> tuple[Any, list[str]]:
    """Return the `tool_choice` of a run, None for the default, and the type of the tool if that was left out.

    `functions` are the run's tools that remained. A choice that needs a tool is left out with them.

    Raises:
        ApiError: a 400, because it names a tool that the settings refuse.
    """
    given = choice.get("type") if isinstance(choice, dict) else None
    kind = given if isinstance(given, str) else None
    if kind in SERVER_RUN and any(each.get("type") == kind for each in functions):
        return choice, []
    if kind is not None and kind != FUNCTION:
        require_dropping(kind, settings, f"{where}.type")
        return None, [kind]
    return (None if choice == NEEDS_TOOLS and not functions else choice), []


def checked_attachments(
    attachments: Any, settings: ServeSettings, where: str = "attachments"
) -> tuple[list[Json], list[str]]:
    """Return the attachments of a message with the tools that the server runs, and the types of the others.

    Raises:
        ApiError: a 400, because the value is no list of attachments, or has a tool that the settings refuse.
    """
    kept: list[Json] = []
    dropped: list[str] = []
    for index, each in enumerate(array(attachments, where) if attachments is not None else []):
        attachment = an_object(each, f"{where}[{index}]")
        only_known(attachment, ("file_id", "tools"), f"{where}[{index}].")
        tools, left_out = checked_tools(attachment.get("tools"), settings, f"{where}[{index}].tools", own=SERVER_RUN)
        kept.append({**attachment, "tools": [each for each in tools if each["type"] in SERVER_RUN]})
        dropped += left_out
    return kept, _distinct(dropped)


def checked_resources(resources: Any, settings: ServeSettings, where: str = "tool_resources") -> tuple[Json, list[str]]:
    """Return the `tool_resources` of the tools that the server runs, and the types of the other tools that have some.

    A tool without a resource, as the provider's own objects name some, is left out without being named.

    Raises:
        ApiError: a 400, because the value is no object, or has resources of a tool that the settings refuse.
    """
    given: Mapping[str, Any] = an_object(resources, where) if resources is not None else {}
    used = [kind for kind, resource in given.items() if kind not in SERVER_RUN and _has_any(resource)]
    if used:
        require_dropping(used[0], settings, f"{where}.{used[0]}")
    return {kind: resource for kind, resource in given.items() if kind in SERVER_RUN and _has_any(resource)}, used


def checked_search(options: Any, settings: ServeSettings, where: str = "web_search_options") -> list[str]:
    """Return the type of the tool if a chat completion was to search the web, which is left out.

    Raises:
        ApiError: a 400, because the settings refuse it.
    """
    if options is None:
        return []
    require_dropping(WEB_SEARCH, settings, where)
    return [WEB_SEARCH]


def losses_of(dropped: Sequence[str]) -> dict[str, int]:
    """Return the losses of a run to which these types of tools are not given."""
    return {f"tool:{kind}": 1 for kind in dropped}


def unsupported_tool(kind: str, param: str) -> ApiError:
    """Return the refusal of a tool that the provider would run."""
    return bad_request(
        f"The tool '{kind:.100}' is not run by this server: remove it, offer a function in its place, or leave out all such "
        'tools with hosted_tools = "drop" in the table [serve] of threadledger.toml.',
        param,
        "unsupported_tool",
    )


def _type_of(tool: Any, where: str) -> str:
    kind = an_object(tool, where).get("type")
    if kind is None:
        raise missing(f"{where}.type")
    return string(kind, f"{where}.type")


def require_dropping(kind: str, settings: ServeSettings, param: str) -> None:
    """Raise a 400 for a tool of the provider, unless the settings say that such tools are left out."""
    if settings.hosted_tools != "drop":
        raise unsupported_tool(kind, param)


def _has_any(resource: Any) -> bool:
    """Return whether a resource names anything: `{"file_ids": []}` does not."""
    if isinstance(resource, Mapping):
        return any(_has_any(each) for each in resource.values())
    return bool(resource)


def _distinct(kinds: Any) -> list[str]:
    return list(dict.fromkeys(kinds))
