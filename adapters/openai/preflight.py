"""What the provider would refuse, told before it is asked: a named refusal instead of an opaque `server_error`."""

from threadledger.domain import BackendRequest, Cause, Failure

from .limits import ASSISTANT_TOOLS_MAX, CHAT_FUNCTIONS_MAX, HOSTED_TOOLS, INSTRUCTIONS_CHARS_MAX
from .tools import offered_tools


def preflight(backend: str, request: BackendRequest, pinned: bool = False) -> Failure | None:
    """The first thing that speaks against asking, as a failure of status `refused`; None where nothing does.

    A pinned assistant has instructions and tools of its own, which are not ours to check.
    """
    if not request.memory.messages:
        return _refused(Cause.EMPTY_MEMORY, "there is no message to answer")
    if pinned:
        return None
    return _instructions(backend, request) or _number_of_tools(backend, request) or _kinds_of_tools(backend, request)


def _instructions(backend: str, request: BackendRequest) -> Failure | None:
    """Elsewhere than in an assistant the model's window is the limit, and the provider says so by its name."""
    length = len(request.profile.instructions)
    if backend != "assistants" or length <= INSTRUCTIONS_CHARS_MAX:
        return None
    message = f"{length:,} characters of instructions, {backend} takes {INSTRUCTIONS_CHARS_MAX:,}"
    return _refused(Cause.INSTRUCTIONS_TOO_LONG, message)


def _number_of_tools(backend: str, request: BackendRequest) -> Failure | None:
    """An assistant is made with all tools of the profile; the others are offered only what can be run."""
    offered, allowed = request.profile.tools, ASSISTANT_TOOLS_MAX
    if backend == "chat":
        offered = [tool for tool in offered_tools(request.profile, request.tools) if tool["type"] == "function"]
        allowed = CHAT_FUNCTIONS_MAX
    if backend == "responses" or len(offered) <= allowed:
        return None
    return _refused(Cause.TOO_MANY_TOOLS, f"{len(offered)} tools, {backend} takes {allowed}")


def _kinds_of_tools(backend: str, request: BackendRequest) -> Failure | None:
    taken = HOSTED_TOOLS[backend] | {"function"}
    others = sorted({str(tool.get("type")) for tool in request.profile.tools} - taken)
    if not others:
        return None
    message = (
        f"{backend} does not take tools of type {', '.join(map(repr, others))}: it takes {', '.join(sorted(taken))}"
    )
    return _refused(Cause.TOOL_NOT_SUPPORTED, message)


def _refused(cause: Cause, message: str) -> Failure:
    return Failure("refused", code=cause.value, message=message)
