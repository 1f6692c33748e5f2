"""Check a request before it is sent, and report a named refusal instead of the provider's generic `server_error`."""

from threadledger.domain import BackendRequest, Cause, Failure

from .limits import ASSISTANT_TOOLS_MAX, CHAT_FUNCTIONS_MAX, HOSTED_TOOLS, INSTRUCTIONS_CHARS_MAX
from .tools import offered_tools


def preflight(backend: str, request: BackendRequest, pinned: bool = False) -> Failure | None:
    """Return the first problem of a request as a failure with status `refused`; None if there is none.

    The instructions and tools of a pinned assistant are not checked, because the profile does not define them.
    """
    if not request.memory.messages:
        return _refused(Cause.EMPTY_MEMORY, "there is no message to answer")
    if pinned:
        return None
    return _instructions(backend, request) or _number_of_tools(backend, request) or _kinds_of_tools(backend, request)


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
    offered, allowed = request.profile.tools, ASSISTANT_TOOLS_MAX
    if backend == "chat":
        offered = [tool for tool in offered_tools(request.profile, request.tools) if tool["type"] == "function"]
        allowed = CHAT_FUNCTIONS_MAX
    if backend == "responses" or len(offered) <= allowed:
        return None
    return _refused(Cause.TOO_MANY_TOOLS, f"there are {len(offered)} tools, but {backend} accepts at most {allowed}")


def _kinds_of_tools(backend: str, request: BackendRequest) -> Failure | None:
    taken = HOSTED_TOOLS[backend] | {"function"}
    others = sorted({str(tool.get("type")) for tool in request.profile.tools} - taken)
    if not others:
        return None
    message = (
        f"{backend} does not accept tools of type {', '.join(map(repr, others))}: use one of {', '.join(sorted(taken))}"
    )
    return _refused(Cause.TOOL_NOT_SUPPORTED, message)


def _refused(cause: Cause, message: str) -> Failure:
    return Failure("refused", code=cause.value, message=message)
