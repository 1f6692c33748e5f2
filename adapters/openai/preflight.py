"""What the provider would refuse, told before it is asked: a named refusal instead of an opaque `server_error`."""

from threadledger.domain import BackendRequest, Cause, Failure

from .limits import ASSISTANT_TOOLS_MAX, HOSTED_TOOLS, INSTRUCTIONS_CHARS_MAX


def preflight(backend: str, request: BackendRequest) -> Failure | None:
    """The first thing that speaks against asking, as a failure of status `refused`; None where nothing does."""
    if not request.memory.messages:
        return _refused(Cause.EMPTY_MEMORY, "there is no message to answer")
    made_of_profile = backend == "assistants"
    length = len(request.profile.instructions)
    if made_of_profile and length > INSTRUCTIONS_CHARS_MAX:
        return _refused(
            Cause.INSTRUCTIONS_TOO_LONG,
            f"{length:,} characters of instructions, {INSTRUCTIONS_CHARS_MAX:,} are allowed",
        )
    tools = request.profile.tools
    if made_of_profile and len(tools) > ASSISTANT_TOOLS_MAX:
        return _refused(Cause.TOO_MANY_TOOLS, f"{len(tools)} tools, {ASSISTANT_TOOLS_MAX} are allowed")
    for tool in tools:
        kind = tool.get("type")
        if kind != "function" and kind not in HOSTED_TOOLS[backend]:
            return _refused(Cause.TOOL_NOT_SUPPORTED, f"{backend} does not take tools of type {kind!r}")
    return None


def _refused(cause: Cause, message: str) -> Failure:
    return Failure("refused", code=cause.value, message=message)
