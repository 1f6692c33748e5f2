"""Execute the runs of one exchange: each is recorded (`records.py`) before its backend is called and after it has ended."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..conversation import RunPlan
from ..conversation.events import MessageJournaled
from ..conversation.messages import Role
from ..effects import ApprovalNeeded, Emit, ListenerLeft, Pause, attended, work
from ..errors import (
    Conflict,
    ConversationBusy,
    ConversationNotFound,
    CorruptEvent,
    ExchangeAnswered,
    ProviderRefused,
    StoreUnavailable,
)
from ..failures import Cause, Failure, diagnose, whole_text
from ..ids import new_id
from ..limits import INTERRUPT_LOOK_SECONDS, LATE_ANSWER_LOOKS_MAX
from ..memory import ALL
from .answer import Answer, Delta, NotShown, StartedOver
from .backend import RENDERING_VERSION, BackendRequest
from .policy import reason_of
from .records import BranchPoint, Run, RunRecords

if TYPE_CHECKING:
    from ..conversation import Completion, Conversation, Profile, ThreadLink
    from ..conversation.messages import Message, ToolCall
    from ..effects import Effect, Effects
    from ..errors import ThreadledgerError
    from ..failures import RecordedFailure
    from ..journal import Journal
    from ..memory import Memory
    from ..threads import PreparedThread
    from .backend import Backend
    from .policy import Candidate, Policy
    from .records import Mode
    from .services import Services

logger = logging.getLogger("threadledger")

PATH_LOOK_MESSAGES = 100
"""Maximum number of messages that are read for the hash of a path, of which a run is shown a window only."""

SUPERSEDED = "a newer question replaced this one, or its time limit passed"
"""Why a run is stopped that another process has closed."""

BROKEN_OFF = "a part of its text was sent, and no other run can continue it"
"""Reason for which an exchange ends whose client has heard a part of the text."""


class Superseded(BaseException):
    """Raised in a run that another process has closed. No `Exception`, so that no backend reports it as its failure."""


class NoFurtherRuns(Exception):
    """Raised when an exchange starts no further runs: a newer question replaced it, or a rerun's limit is reached."""


class Runs:
    """Execute the runs of one exchange, one after the other."""

    def __init__(
        self,
        journal: Journal,
        services: Services,
        key: str,
        exchange_id: str,
        mode: Mode,
        policy: Policy,
        *,
        after: int = 0,
        stream: bool = False,
    ) -> None:
        """Prepare the runs; `after` is a version before the first of them, `stream` whether a listener reads the text."""
        self._journal = journal
        self._services = services
        self._key = key
        self._exchange_id = exchange_id
        self._mode = mode
        self._policy = policy
        self._after = after
        self._stream = stream
        self._records = RunRecords(journal, key, exchange_id, mode, after)
        if mode.records is not None:
            self._records = mode.records(journal, key, exchange_id, mode)
        elif mode.shadow:  # only a rerun loads the module
            from .shadow import ShadowRecords

            self._records = ShadowRecords(journal, key, exchange_id, mode)
        self._failed: Run | None = None
        self._must_be_open = not mode.again
        self._wrote_to_a_thread = False
        """Whether a failed run had a thread, which may hold an answer that was not acknowledged."""
        self._said = ("", "")
        """Text that the next run continues, and the id of the run that said its end; both empty if it starts again."""
        self.current: Run | None = None
        """The newest run."""
        self.made: list[str] = []
        """Ids of the runs that were recorded."""
        self.limit = ""
        """The limit that prevented a run."""

    @property
    def has_threads(self) -> bool:
        """Return whether the conversation may have linked threads."""
        return self._records.has_threads

    def start(self, candidate: Candidate, attempt: int, timeout_seconds: float) -> Effects[Run]:
        """Record that a backend is about to be called, and announce it to a listener after a failed run.

        Raises:
            NoFurtherRuns: a newer question replaced this one between two runs, or a limit is reached.
            Conflict: see `Conversation.start_run`.
        """
        if self._mode.is_heard and self._failed is not None and self._is_cut_off(self._failed):
            yield from self.abandon(BROKEN_OFF)
            raise NoFurtherRuns
        self.limit = self._mode.admit()
        if self.limit:
            yield from self.abandon(self.limit)
            raise NoFurtherRuns
        try:
            run = yield from work(lambda: self._started(candidate, attempt, timeout_seconds))
        except BaseException as error:
            self._mode.give_back()
            if isinstance(error, Conflict) and not isinstance(error, ExchangeAnswered) and self._failed is not None:
                raise NoFurtherRuns from error
            raise
        self.current = run
        self.made.append(run.run_id)
        if self._failed is not None:
            yield Emit(self._started_over(self._failed, run))
        if run.message_id is not None:
            from .answer import Began

            yield Emit(Began(run.run_id, candidate.backend, candidate.model, run.message_id))
        if run.plan.losses:
            yield Emit(NotShown(run.plan.losses, run.run_id, candidate.backend))
        return run

    def call(self, run: Run) -> Effects[Completion | Failure]:
        """Call the backend once; a provider's refusal and a backend's own error are returned as a failure.

        Raises:
            NoFurtherRuns: another process has closed the run.
        """
        try:
            return (yield from self._watched(run, self._answered(run)))
        except ProviderRefused as refused:
            if self._mode.takes_incomplete:
                from .client_memory import cut_off

                if (said := cut_off(refused.failure)) is not None:
                    return said
            from .missing_files import place_of, with_missing_files

            place = place_of(self._services.backends[run.candidate.backend])
            return run.with_partial_text(with_missing_files(refused.failure, run.memory, place)).redacted()
        except ApprovalNeeded as needed:
            from .approvals import ended_with

            return ended_with(needed)
        except Superseded as superseded:
            yield from work(lambda: self._release(run, Failure("interrupted")))
            raise NoFurtherRuns from superseded
        except CorruptEvent:  # noticed when the messages were used: the ledger is damaged, and no backend failed
            raise
        except (Conflict, ConversationNotFound) as error:  # another process changed or deleted it: no backend failed
            return run.with_partial_text(failure_of_error(error))
        except Exception as error:
            logger.exception("backend %s raised", run.candidate.backend)
            return run.with_partial_text(failure_of_error(error))

    def complete(self, run: Run, completion: Completion, fallback: bool) -> Effects[Answer]:
        """Record the answer. It was paid for, so it waits while another run is open or the database is unavailable.

        Raises:
            NoFurtherRuns: another run stayed open.
            StoreUnavailable: the database stayed unavailable.
            Conflict: the answer can no longer be placed.
        """
        refused: ThreadledgerError | None = None
        for _ in range(LATE_ANSWER_LOOKS_MAX):
            try:
                return (yield from work(lambda: self._answer(run, completion, fallback)))
            except (ConversationBusy, StoreUnavailable) as error:
                refused = error
                yield Pause(INTERRUPT_LOOK_SECONDS)
            except Conflict:
                yield from work(lambda: self._release(run, Failure("interrupted")))
                raise
        if isinstance(refused, StoreUnavailable):
            raise refused
        yield from work(lambda: self._release(run, Failure("interrupted")))
        raise NoFurtherRuns

    def fail(self, run: Run, failure: Failure) -> Effects[None]:
        """Record why a run failed.

        Raises:
            NoFurtherRuns: another process has closed the run.
        """

        def record() -> bool:
            try:
                return self._records.fail(run, failure)
            finally:
                self._release(run, failure)

        is_ours = yield from work(record)
        run.failure = failure
        self._failed = run
        self._wrote_to_a_thread |= run.thread is not None
        if self._policy.stream_fallback == "continue":
            self._said = self._said_so_far(run, failure)
        if not is_ours:
            raise NoFurtherRuns

    def lost_answer(self) -> Effects[Answer | None]:
        """Return the answer that a thread holds although its acknowledgement was lost; None if there is none."""
        outbox, key, exchange_id = self._services.outbox, self._key, self._exchange_id
        if outbox is None or not self._wrote_to_a_thread or self._mode.shadow:
            return None
        if not (yield from outbox.recover_answer(self._journal, key, exchange_id)):
            return None
        from .recorded_answers import recorded_answer

        return (yield from work(lambda: recorded_answer(self._journal, key, exchange_id, self._after, self._services)))

    def abandon(self, reason: str) -> Effects[None]:
        """Record that the exchange has no answer."""
        yield from work(lambda: self._records.abandon(reason))

    def give_up(self, failure: Failure) -> None:
        """Close the open run and the exchange, because nothing continues them."""
        run = self.current
        self._records.give_up(run, run.with_partial_text(failure) if run is not None else failure)
        if run is not None:
            self._release(run, failure)

    def _started(self, candidate: Candidate, attempt: int, timeout_seconds: float) -> Run:
        backend = self._services.backends[candidate.backend]
        getattr(backend, "load", _load_nothing)()  # optional, because backends of apps may not have it
        memory, left = self._view(backend)
        if not memory.was_read or memory.missing_files:
            from .missing_files import place_of

            memory = memory.for_place(place_of(backend))
        request = BackendRequest(
            key=self._key,
            exchange_id=self._exchange_id,
            run_id="",
            model=candidate.model,
            profile=self._profile(),
            memory=memory,
            timeout_seconds=timeout_seconds,
            metadata=self._services.metadata,
            tools=self._mode.tools() if self._mode.tools is not None else self._services.tools,
            extra=self._services.extra,
            own_tools=self._services.own_tools,
            hands_over=self._services.hands_over,
            secret_of=self._services.secret_of,
            stream=self._stream,
        )
        dropped = self._dropped(candidate, backend, request)
        losses = getattr(backend, "losses", _loses_nothing)(request)
        plan = RunPlan(
            backend=candidate.backend,
            model=candidate.model,
            endpoint=getattr(backend, "endpoint", None),
            attempt=attempt,
            timeout_seconds=timeout_seconds,
            profile_hash=self._journal.define_profile(self._services.profile),
            memory_version=memory.version,
            memory_rule=memory.rule,
            memory_hash=memory.digest(),
            path_hash=self._path_hash(memory),
            memory_first_version=memory.first_version,
            rerun_of=self._mode.rerun_of,
            fallback_reason=self._why_failed(),
            dropped=dropped,
            losses={**losses, **{name: 1 for name in dropped if name.startswith("option:")}, **self._mode.losses},
            rendering=f"{dialect}/{RENDERING_VERSION}" if (dialect := getattr(backend, "dialect", None)) else None,
        )
        plan = self._records.plan(plan, backend.thread is not None)
        is_first = not self._must_be_open or (self._mode.branch is not None and not self.made)
        if self._mode.idempotency_key is not None and is_first:
            plan = plan.replaced(idempotency_key=self._mode.idempotency_key)
        plan = plan.replaced(apart=True) if left is not None else plan
        said, said_by = self._said
        if said:  # outside the linked thread, which must not contain the unfinished text
            is_apart = plan.apart or backend.thread is not None
            plan = plan.replaced(apart=is_apart, continues_run_id=said_by, continued_chars=len(said))
        run_id, refusal = self._recorded(plan, request)
        self._must_be_open = True
        if dropped:
            from .omissions import without

            request = without(request, dropped)
        if self._mode.ending:
            request = replace(request, memory=request.memory.with_messages(self._mode.ending))
        if said:
            from .continuation import with_beginning_said

            request = replace(request, memory=with_beginning_said(request.memory, said))
        run = Run(run_id, candidate, plan, memory, request, time.monotonic(), said=said, refusal=refusal)
        if self._mode.served:  # a run that continues a text has the message that its listeners know
            run.message_id = (self._failed.message_id if said and self._failed is not None else None) or new_id()
        return run

    def _recorded(self, plan: RunPlan, request: BackendRequest) -> tuple[str, Failure | None]:
        """Record the start of a run, within the budgets if there are any; return its id, and why it is refused, if it is."""
        start = partial(self._records.start, failed=self._failed, must_be_open=self._must_be_open)
        if self._journal.budgets is None:
            return start(plan), None
        from .budget import started_within_budget

        return started_within_budget(self._journal, plan, request, self._mode.ending, start)

    def _profile(self) -> Profile:
        """Return the profile of the runs; a shadow run waits for nobody: its tools change nothing."""
        profile = self._services.profile
        return replace(profile, approval=()) if self._mode.shadow and profile.approval else profile

    def _said_so_far(self, run: Run, failure: Failure) -> tuple[str, str]:
        """Return the text that the listener has heard, and the run that said its end, if a next run can continue it."""
        if run.has_called_tools or diagnose(failure) is Cause.CONTENT_FILTERED:
            return "", ""
        heard = whole_text("".join(run.partial)) if self._stream else ""
        return (run.said + heard, run.run_id) if heard else self._said

    def _dropped(self, candidate: Candidate, backend: Backend, request: BackendRequest) -> tuple[str, ...]:
        """Return what the backend is not given: parts that it lacks and, if it is a fallback, tools that it lacks."""
        lacks = tuple(getattr(backend, "lacks", _lacks_nothing)(request))
        if self._policy.fallback == "strict":  # preflight refuses them; metadata changes no answer
            return tuple(
                each for each in lacks if each == "option:metadata" or not each.startswith(("tool:", "option:"))
            )
        if candidate.backend == self._policy.candidates[0].backend:
            return tuple(name for name in lacks if not name.startswith("tool:"))  # preflight refuses tools
        return lacks

    def _view(self, backend: Backend) -> tuple[Memory, ThreadLink | None]:
        """Return the memory that a run is shown, and the backend's thread if runs no longer answer in it (too long).

        Of a run that answers in its thread, only the hash of the memory is needed: the messages are read if they are used.
        """
        last, tokens = self._policy.memory_last, self._policy.memory_tokens
        if self._mode.memory is not None:
            return self._mode.memory, None
        if self._mode.branch is not None:
            return self._of_branch(last, tokens), None
        if backend.thread is None:
            return self._until_question(last, tokens), None
        conversation = self._journal.require(self._key)
        link = conversation.state.links.get(backend.thread)
        if link is not None and link.lost == Cause.CONTEXT_TOO_LONG:
            budgets = [each for each in (tokens, link.window_tokens) if each is not None]
            return self._until_question(last, min(budgets, default=None)), link
        if self._others_wrote(conversation) or self._has_left(conversation):
            return self._until_question(), None
        return self._journal.memory_later(conversation), None

    def _others_wrote(self, conversation: Conversation) -> bool:
        """Return whether messages of others were journaled since the question."""
        asked_at, exchange = self._records.asked_at, conversation.state.open_exchanges.get(self._exchange_id)
        if not asked_at or (exchange is not None and exchange.messages == conversation.state.messages):
            return False
        since = self._journal.history(self._key, after=asked_at)
        return any(isinstance(each, MessageJournaled) and each.exchange_id != self._exchange_id for each in since)

    def _path_hash(self, memory: Memory) -> str | None:
        """Return the hash of the whole memory that a view was made of; None in a rerun, unless it is known."""
        if memory.path_hash is not None or self._mode.memory is not None:
            return memory.path_hash
        leaf = self._mode.branch.parent[1] if self._mode.branch is not None else None
        return (
            memory.digest()
            if memory.rule == ALL
            else self._journal.path_hash_nearby(self._key, memory.version, leaf, PATH_LOOK_MESSAGES)
        )

    def _until_question(self, last: int | None = None, tokens: int | None = None) -> Memory:
        """Return the conversation's memory up to the question: what others wrote since then is left out."""
        memory = self._journal.memory(self._key, last=last, tokens=tokens)
        asked_at = self._records.asked_at
        if not asked_at or memory.newest_version == asked_at:
            return memory
        if self._has_left(self._journal.require(self._key)):
            return self._of_branch(last, tokens)
        from .later_messages import until_question

        return until_question(self._journal, self._key, memory, asked_at, self._exchange_id, last, tokens)

    def _of_branch(self, last: int | None, tokens: int | None) -> Memory:
        """Return the memory that ends with the question, or with what the exchange journaled since, on its own branch."""
        branch = self._mode.branch
        leaf = branch.parent[1] if branch is not None else None
        return self._journal.memory(self._key, last=last, tokens=tokens, leaf=leaf)

    def _has_left(self, conversation: Conversation) -> bool:
        """Return whether another branch was selected since the question; if so, the runs are of its own branch from now on."""
        left = conversation.left_exchange(self._exchange_id) if self._mode.branch is None else None
        if left is None:
            return False
        branch = BranchPoint(self._journal.end_of_exchange(self._key, left), None)
        self._mode = self._records.mode = replace(self._mode, branch=branch)
        return True

    def _is_cut_off(self, failed: Run) -> bool:
        """Return whether a part of a text was heard that is journaled nowhere, and that no next run continues."""
        return len(failed.partial) > failed.kept_pieces and not self._said[0]

    def _started_over(self, failed: Run, run: Run) -> StartedOver:
        return StartedOver(
            failed_run_id=failed.run_id,
            run_id=run.run_id,
            backend=run.candidate.backend,
            model=run.candidate.model,
            reason=self._why_failed(),
            fallback=run.candidate.backend != failed.candidate.backend,
            from_backend=failed.candidate.backend,
            dropped=run.plan.dropped,
            continues=bool(run.said),
        )

    def _why_failed(self) -> str:
        """Return why the run before failed; empty if this is the first one."""
        failure = self._failed.failure if self._failed is not None else None
        return reason_of(failure) if failure is not None else ""

    def _answered(self, run: Run) -> Effects[Completion | Failure]:
        backend = self._services.backends[run.candidate.backend]
        request = replace(
            run.asked,
            run_id=run.run_id,
            journal=lambda messages: self._keep_tools(run, messages),
            apart=run.plan.apart,
        )
        refusal = run.refusal or backend.preflight(request)
        if run.plan.losses and self._policy.on_loss == "refuse":
            from .omissions import refused_loss

            refusal = refused_loss(run.plan.losses)
        if refusal is not None:
            return refusal.redacted()
        if self._mode.turn is not None:
            from .approvals import use_decided

            turn = yield from work(self._mode.turn)
            results = yield from use_decided(turn, run.run_id, request.tools, request.profile.read_only)
            if results:
                yield from work(partial(self._keep_tools, run, results))
                request = replace(request, memory=request.memory.with_messages(results))
        if backend.thread is not None and self._services.outbox is not None and not request.apart:
            run.thread = yield from self._services.outbox.prepare(
                self._journal,
                self._key,
                backend.thread,
                exchange_id=self._exchange_id,
                run_id=run.run_id,
                timeout_seconds=request.timeout_seconds,
                takes_unsent=backend.takes_unsent,
                asked_at=self._records.asked_at,
            )
            left = run.began + run.plan.timeout_seconds - time.monotonic()
            run.request = request = _in_thread(replace(request, timeout_seconds=max(left, 0.001)), run.thread)
        run.called = time.monotonic()
        return (yield from backend.answer(request))

    def _watched(self, run: Run, effects: Effects[Completion | Failure]) -> Effects[Completion | Failure]:
        """Run the effects, collecting streamed text and checking that no other process has closed the run."""
        checked_at = time.monotonic()

        def collect(effect: Effect) -> Effect:
            if not isinstance(effect, Emit) or not isinstance(effect.part, Delta):
                return effect
            run.partial.append(effect.part.text)
            return Emit(replace(effect.part, run_id=run.run_id))

        def check(effect: Effect) -> Effects[None]:
            nonlocal checked_at
            if isinstance(effect, Emit | Pause) and time.monotonic() - checked_at >= INTERRUPT_LOOK_SECONDS:
                checked_at = time.monotonic()
                try:
                    is_open = yield from work(lambda: self._journal.is_open(self._key, run.run_id))
                except StoreUnavailable:  # no reason to stop the run: its end needs the database, this check does not
                    return
                if not is_open:
                    raise Superseded(SUPERSEDED)

        return attended(effects, check, collect)

    def _keep_tools(self, run: Run, messages: Sequence[Message]) -> None:
        """Journal what a tool did, whatever the run's outcome; a run that another process has closed is stopped."""
        if run.said and messages and messages[0].role is Role.ASSISTANT:  # the text comes before the calls
            from .continuation import beginning_with

            messages = [beginning_with(run.said, messages[0]), *messages[1:]]
            run.said = ""
        run.has_called_tools, run.kept_pieces = True, len(run.partial)
        if not self._records.keep_tools(run, [*map(self._journal.keep, messages)]):
            raise Superseded(SUPERSEDED)
        if run.thread is not None:
            run.thread = run.thread.after_tools(messages)

    def _answer(self, run: Run, completion: Completion, fallback: bool) -> Answer:
        if completion.thread_id is not None and run.request is not None:
            completion = replace(completion, thread_version=run.request.thread_version)
        if run.said:
            from .continuation import joined

            completion = joined(run.said, completion)
        if self._services.finish is not None:
            completion = replace(completion, messages=tuple(map(self._services.finish, completion.messages)))
        if not all(isinstance(each.content, str) and not each.native_json for each in completion.messages):
            completion = replace(completion, messages=tuple(map(self._journal.keep, completion.messages)))
        accepted = self._records.complete(run, completion, fallback)
        self._settle(run, completion.thread_id, accepted.version)
        failures: Sequence[RecordedFailure] = []
        if self._failed is not None or self._mode.again or accepted.run_id != run.run_id:
            failures = self._journal.exchanges(self._key, self._after).by_id[self._exchange_id].failures()
        completion, profile, wanted = accepted.completion, self._services.profile, self._services.answer_type
        if wanted is None and profile.settings_json != "{}":
            wanted = profile.settings.get("response_format")
        return Answer(
            text=completion.messages[-1].text,
            key=self._key,
            exchange_id=self._exchange_id,
            run_id=accepted.run_id,
            message_id=accepted.message_id,
            backend=run.candidate.backend,
            model=completion.model or run.candidate.model,
            fallback=fallback,
            failures=failures,
            version=accepted.version,
            usage=completion.usage,
            selected=accepted.selected,
            pending=_pending(completion),
            dropped=run.plan.dropped,
            losses=dict(Counter(run.plan.losses) + Counter(completion.losses)),
            response_format=wanted,
        )

    def _settle(self, run: Run, thread_id: str | None, version: int) -> None:
        """Record that the backend wrote everything to the thread itself, and release the thread.

        If it did not, or another writer journaled meanwhile, the thread is only released: it is read before the next write.
        """
        outbox, thread = self._services.outbox, run.thread
        if outbox is None or thread is None:
            return
        since = self._journal.history(self._key, after=thread.thread_version, upto=version)
        if thread_id is not None and _all_of(run, (each for each in since if isinstance(each, MessageJournaled))):
            outbox.settle(thread, version)
        else:
            outbox.release(thread)

    def _release(self, run: Run, failure: Failure) -> None:
        """Release the thread that was acquired for a run, noting whether the run may still write to it."""
        if run.thread is not None and self._services.outbox is not None:
            from ..threads import is_uncertain

            self._services.outbox.release(run.thread, is_uncertain(failure))


def _pending(completion: Completion) -> Sequence[ToolCall]:
    """Return the tool calls on which a person has to decide."""
    if not completion.waits_for:
        return ()
    return [call for call in completion.messages[-1].calls() if call.id in completion.waits_for]


def _load_nothing() -> None:
    """Do nothing, for a backend without libraries to load."""


def _loses_nothing(_: BackendRequest) -> Mapping[str, int]:
    """Return nothing, for a backend that does not say what it cannot be shown."""
    return {}


def _lacks_nothing(_: BackendRequest) -> tuple[str, ...]:
    """Return nothing, for a backend that does not say what it lacks."""
    return ()


def failure_of_error(error: Exception) -> Failure:
    """Return the failure of a run whose backend raised an error of its own."""
    return Failure.of_exception(error)


def failure_of_stop(by: BaseException) -> Failure:
    """Return the failure of a run whose process, task or listener has stopped.

    Its message is stored, and is part of a group's id: another text would separate new failures from decisions on old ones.
    """
    if isinstance(by, ListenerLeft):
        return Failure("cancelled", code="listener_left", message="nobody listened to the answer any more")
    return Failure("interrupted", message="the process was told to stop while the run was under way")


def _in_thread(request: BackendRequest, thread: PreparedThread | None) -> BackendRequest:
    """Return the request with the thread that was prepared for it."""
    if thread is None:
        return request
    return replace(
        request,
        thread_id=thread.thread_id,
        thread_version=thread.thread_version,
        unsent=thread.unsent,
        found=thread.found,
        doubts=thread.doubts,
    )


def _all_of(run: Run, messages: Iterable[MessageJournaled]) -> bool:
    return all(message.run_id == run.run_id for message in messages)
