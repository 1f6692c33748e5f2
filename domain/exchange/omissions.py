"""Remove from a request what its backend does not have: `tool:TYPE` (hosted tools), `part:TYPE` (parts), `option:NAME`.

`part:file` names the parts that refer to a file by an id: it exists at one provider only, and is never sent to another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..conversation.messages import JournaledMessage
from ..conversation.parts import Text
from ..failures import Cause, Failure
from ..memory.sending import losses_in_words, not_shown

if TYPE_CHECKING:
    from ..conversation import Profile
    from ..memory import Memory
    from .backend import BackendRequest

TOOL, PART, OPTION = "tool:", "part:", "option:"
STORED_FILE = f"{PART}file"
FILE_FIELDS = frozenset({"file_id", "file_ids", "vector_store_ids"})
"""Fields whose values are ids of files or collections of files at one provider."""


def without(request: BackendRequest, dropped: Sequence[str]) -> BackendRequest:
    """Return the request without these tools and options; each of these parts is replaced by a text that names its type."""
    types = {name.removeprefix(TOOL) for name in dropped if name.startswith(TOOL)}
    parts = {name.removeprefix(PART) for name in dropped if name.startswith(PART) and name != STORED_FILE}
    memory = _without_parts(request.memory, parts, STORED_FILE in dropped) if parts or STORED_FILE in dropped else None
    if options := [name.removeprefix(OPTION) for name in dropped if name.startswith(OPTION)]:
        from .options import without_settings

        metadata = {} if "metadata" in options else request.metadata
        extra = {name: value for name, value in request.extra.items() if name not in options}
        profile = without_settings(request.profile, options)
        request = replace(request, profile=profile, metadata=metadata, extra=extra)
    return replace(request, profile=_without_tools(request.profile, types), memory=memory or request.memory)


def refused_loss(losses: Mapping[str, int]) -> Failure:
    """Return the failure of a run that is not made, because its backend could not be shown parts of the memory."""
    return Failure(
        "refused",
        code=Cause.CONTENT_NOT_SUPPORTED.value,
        message=f"the backend cannot be shown {losses_in_words(losses)}, and THREADLEDGER_ON_LOSS is refuse",
    )


def number_of_stored_files(memory: Memory) -> int:
    """Return how many parts in view refer to a file by an id."""
    if not memory.has_parts:
        return 0
    return sum(
        names_stored_file(part.as_json())
        for each in memory.messages
        if each.as_plain_chat_message() is None and isinstance(each.message.content, tuple)
        for part in each.message.content
    )


def names_stored_file(value: Any) -> bool:
    """Return whether a JSON value contains the id of a file at a provider."""
    if isinstance(value, Mapping):
        return any((name in FILE_FIELDS and bool(inner)) or names_stored_file(inner) for name, inner in value.items())
    return isinstance(value, Sequence) and not isinstance(value, str) and any(map(names_stored_file, value))


def _without_tools(profile: Profile, types: set[str]) -> Profile:
    if not types:
        return profile
    return replace(profile, tools_json=json.dumps([tool for tool in profile.tools if tool["type"] not in types]))


def _without_parts(memory: Memory, types: set[str], stored_files: bool) -> Memory:
    def shown(part: Any) -> Any:
        given = part.as_json()
        kind = given.get("type", "content")
        if stored_files and names_stored_file(given):
            return Text(f"[{kind} not shown: it is stored at another provider]")
        return Text(not_shown(given)) if kind in types else part

    def kept(each: JournaledMessage) -> JournaledMessage:
        if not isinstance(each.message.content, tuple):
            return each
        message = each.message.replaced(content=tuple(map(shown, each.message.content)))
        return JournaledMessage(
            message, each.message_id, each.version, each.at, each.exchange_id, each.run_id, each.source
        )

    return replace(memory, messages=tuple(map(kept, memory.messages)))
