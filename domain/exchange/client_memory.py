"""Answer requests whose client sends what the model is shown, as in Chat Completions, and calls its functions itself.

Runs of one conversation may be open at the same time, because the client decides. No process continues such an exchange: one
that stopped is continued by the client, which sends its question again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ..conversation import Completion, RunPlan
from ..conversation import events as e
from ..conversation.messages import JournaledMessage, Message, Role, Usage
from ..ids import now
from ..memory import Memory
from .exchange import Exchange
from .records import BranchPoint, Mode, RunRecords
from .runs import PATH_LOOK_MESSAGES

if TYPE_CHECKING:
    from ..conversation import Conversation
    from ..conversation.messages import Parent
    from ..failures import Failure
    from ..journal import Journal
    from .records import Run
    from .services import Services

AGAIN = "the client sent its request again"
"""Why another backend is called for an exchange that had failed."""

LENGTH, FILTERED = "length", "content_filter"
CUT_OFF: Mapping[str, str] = {
    "length": LENGTH,
    "max_tokens": LENGTH,
    "max_output_tokens": LENGTH,
    "content_filter": FILTERED,
}
"""Reasons for which an answer is incomplete, in the words of the providers' APIs, and those of Chat Completions."""


@dataclass(frozen=True)
class ClientRequest:
    """Describe a request as it was placed in its conversation."""

    exchange_id: str
    version: int
    """Version of the conversation with the request, in one commit with its new messages."""
    shown: Sequence[Message]
    """What the model is shown: the messages as the client sent them."""
    rule: str
    """Rule by which memory shows the same, or that of a view that the client selected."""
    leaf: Parent | None = None
    """The last message of its branch, if that is aside."""
    path_known: bool = True
    """Whether the conversation knows the hash of memory."""
    completion_id: str = ""
    """Id under which its answer can be read later; empty if it cannot."""
    created_at: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, int] = field(default_factory=dict)
    """What it asks for and no backend is given, by kind."""


def exchange_of(journal: Journal, services: Services, key: str, request: ClientRequest, *, stream: bool) -> Exchange:
    """Return the exchange that answers a request; it uses no thread at a provider, and mirrors nothing to one."""
    at = now()
    shown = (JournaledMessage(each, f"sent/{place}", request.version, at) for place, each in enumerate(request.shown))
    path = None
    if request.leaf is not None or not request.path_known:
        leaf = request.leaf[1] if request.leaf is not None else None
        path = journal.path_hash_nearby(key, request.version, leaf, PATH_LOOK_MESSAGES)
    memory = Memory(tuple(shown), request.version, request.rule, path_hash=path, read_blob=journal.read_blob)
    mode = Mode(
        again=True,
        served=True,
        memory=memory,
        takes_incomplete=True,
        losses=request.losses,
        branch=BranchPoint(request.leaf, None) if request.leaf is not None else None,
        records=partial(ClientRecords, request),
    )
    apart = replace(services, outbox=None)
    return Exchange(journal, apart, key, request.exchange_id, mode=mode, after=request.version - 1, stream=stream)


class ClientRecords(RunRecords):
    """Record the runs of a request."""

    alongside = True

    def __init__(self, request: ClientRequest, journal: Journal, key: str, exchange_id: str, mode: Mode) -> None:
        super().__init__(journal, key, exchange_id, mode)
        self._request = request

    def plan(self, plan: RunPlan, in_thread: bool) -> RunPlan:
        """Return the plan as the runs of recorded clients have it: the view is named by its rule, and has no hash."""
        leaf = self.mode.branch.parent[1] if self.mode.branch is not None else None
        return plan.replaced(
            apart=in_thread,
            memory_hash=None,
            memory_first_version=None,
            memory_leaf_version=leaf,
            fallback_reason=plan.fallback_reason or AGAIN,
        )

    def answered(self, conversation: Conversation, run: Run) -> None:
        """Record that the completion can be read, if the client wants that."""
        request, said = self._request, conversation.pending
        completed = next((each for each in reversed(said) if isinstance(each, e.RunCompleted)), None)
        answer = next((each for each in reversed(said) if isinstance(each, e.MessageJournaled)), None)
        if not request.completion_id or completed is None or answer is None:
            return
        conversation.record(
            e.CompletionStored,
            completion_id=request.completion_id,
            exchange_id=request.exchange_id,
            run_id=completed.run_id,
            request_version=request.version,
            completed_version=completed.originator_version,
            message_id=answer.message_id,
            message_version=answer.originator_version,
            created_at=request.created_at,
            model=completed.model or run.candidate.model,
            metadata=dict(request.metadata),
        )

    def is_continued(self, failure: Failure) -> bool:
        return False


def cut_off(failure: Failure) -> Completion | None:
    """Return the answer in a failure that only says that the answer is incomplete; None if it says anything else.

    The client asked for that limit, and is told that it was reached.
    """
    details = failure.details
    reason = CUT_OFF.get(str(details.get("finish_reason") or details.get("incomplete_reason")))
    if failure.status != "incomplete" or reason is None:
        return None
    counts = details.get("usage")
    usage = Usage(**counts) if isinstance(counts, Mapping) else Usage()
    said = Message(Role.ASSISTANT, failure.partial_text or "")
    return Completion(
        (said,),
        finish_reason=reason,
        remote_run_id=failure.remote_run_id,
        request_id=failure.request_id,
        usage=usage,
    )
