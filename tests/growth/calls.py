"""List every public call with arguments for a large ledger, and say how many results each returns.

`test_growth.py` compares the names with the public ones: a new name needs an entry here, or one in `EXCEPTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from threadledger.domain.conversation import FailureFilter
from threadledger.domain.conversation.profiles import Profile
from threadledger.domain.errors import AllBackendsFailed, ConversationNotFound
from threadledger.domain.ids import now
from threadledger.domain.ledger import (
    Ledger,
    defined_profile,
    follow_failures,
    lags_among,
    memory_shown,
    threads_behind,
    tool_names,
    unanswered_exchanges,
)
from threadledger.domain.ledger.audit import FailureGroups

from ..cli.command_table import PROFILE

CONVERSATIONS, MESSAGES = "conversations", "messages"
BOTH = frozenset({CONVERSATIONS, MESSAGES})

LIMIT = 20
"""Number of results where a call limits them."""


@dataclass
class Place:
    """Hold one ledger and what is in it."""

    ledger: Ledger
    url: str
    key: str
    """Key of the conversation to use: one of many, or the long one. It has a failed run."""
    run: str
    """Id of that run."""
    folder: Path
    """Folder for new files."""
    events: int
    """Number of events in the ledger when it was made."""
    numbers: Iterator[int]
    """Numbers for new names."""
    provider: Any = None
    """Simulator that answers for models."""

    @property
    def chat(self) -> Any:
        return self.ledger.conversation(self.key)

    @property
    def new(self) -> str:
        """Return a name that was not used before."""
        return f"new-{next(self.numbers)}"

    @property
    def new_file(self) -> Path:
        return self.folder / f"{self.new}.db"

    @property
    def memory(self) -> Any:
        return self.ledger.memory(self.key)

    @property
    def group(self) -> str:
        return self.ledger.failure_groups(states=("open", "resolved", "muted", "returned"))[0].group

    @property
    def groups(self) -> FailureGroups:
        return FailureGroups(self.ledger.journal)


@dataclass(frozen=True)
class Call:
    """Describe one call: what it does, and for which of its results its cost may grow."""

    do: Callable[[Any], Any]
    """Function of a place, or of what `given` returned; it returns a number or a collection of results, or anything."""
    whole_on: frozenset[str] = frozenset()
    """Where it works on everything by its nature: on all conversations, or on all messages of one. Its results grow, and
    the cost of each is compared."""
    axes: frozenset[str] = BOTH
    """What may grow under it."""
    given: Callable[[Place], Any] = lambda place: place
    """Function that prepares what the call is made on; its own cost is not counted."""
    per: Callable[[Place], int] | None = None
    """Function that returns the number of results, if the call itself does not."""
    paged: bool = False
    """Whether it reads a page of 1,000 events, however few of them it returns: ten messages are no comparison."""
    brief: bool = False
    """Whether few hundred are enough, because each takes long or another call covers it: the results are counted there."""
    searches: bool = False
    """Whether it reads the view of words, which is not built in the largest ledgers."""
    threads: bool = False
    """Whether it is about threads, for which the ledger needs a kind of thread."""
    writes: bool = False
    """Whether it writes events. Calls that only read have a ledger of their own, in which everything is as it was made."""
    branches: bool = False
    """Whether it writes branches or pins. Such calls share a ledger in which each of them leaves more of these, and are
    compared on conversations longer than a window."""

    @property
    def changes(self) -> str:
        """Return what it changes, by which calls share a ledger; empty for nothing."""
        return "branched" if self.branches else "written" if self.writes else ""


def whole(*axes: str, do: Callable[[Any], Any], **more: Any) -> Call:
    """Return a call that works on everything on these axes."""
    return Call(do, frozenset(axes), **more)


def results_of(returned: Any) -> int:
    """Return the number of results in what a call returned."""
    if isinstance(returned, bool):
        return 1
    if isinstance(returned, int):
        return returned
    if isinstance(returned, Iterator):
        return sum(1 for _ in returned)
    return len(returned) if isinstance(returned, (list, tuple, dict)) else 1


def _events(place: Place) -> int:
    return place.events


def _with_key(place: Place) -> str:
    """Add a key of the served API, and return its name."""
    name = place.new
    place.ledger.api_keys.add(name)
    return name


def _own_run(place: Place) -> None:
    with place.chat.run("own", "own-model") as run:
        run.complete("Tomorrow.")


def _failed_run(place: Place) -> None:
    with suppress(TimeoutError), place.chat.run("own", "own-model"):
        raise TimeoutError("too late")


def _own_exchange(place: Place) -> None:
    with place.chat.exchange():
        _own_run(place)


def _answered(place: Place) -> tuple[Place, str]:
    key = place.new
    place.chat.ask("Where is it?", idempotency_key=key)
    return place, key


def _abandoned(place: Place) -> tuple[Place, str]:
    place.provider.add_fault("*", refuse={"status": 400, "message": "no"})
    with suppress(AllBackendsFailed):
        place.chat.ask("Where is it?")
    return place, next(reversed(place.ledger.state(place.key).abandoned))


def _newest_message(place: Place) -> tuple[Place, str]:
    return place, place.chat.append("user", "Not this.").message_id


def _edited_message(place: Place) -> tuple[Place, str]:
    message = place.chat.append("user", "Not this.").message_id
    return place, place.chat.edit(message, "This.").message_id


def _copied(place: Place) -> Any:
    """Return a copy of the conversation."""
    return place.ledger.fork(place.key, place.new)


def _deleted(place: Place) -> Any:
    """Return a conversation that was deleted after as many messages as the place has, once or more often."""
    key = f"{place.key} deleted"
    try:
        place.ledger.state(key)
    except ConversationNotFound:
        place.ledger.fork(place.key, key)
    chat = place.ledger.conversation(key)
    chat.delete()
    return chat


def _begun_again(place: Place) -> Any:
    chat = _deleted(place)
    for number in range(LIMIT):
        chat.append("user", f"Again {number}.")
    return chat


def _last_position(place: Place) -> tuple[Place, int]:
    return place, int(place.ledger.journal.last_cursor().split(".")[2]) - LIMIT


def _planned_job(place: Place) -> Any:
    plan = place.ledger.replay.plan_rebuild([place.key])
    plan.apply()
    return place.ledger.replay, plan.job.job_id


def _items(plan: Any) -> Any:
    return plan.items


CALLS: dict[str, Call] = {
    # Ledger
    "Ledger.attach": Call(lambda it: it.ledger.attach(b"%PDF-1.7", filename="a.pdf"), writes=True),
    "Ledger.back_up": whole(*BOTH, do=lambda it: it.ledger.back_up(it.new_file), brief=True),
    "Ledger.check": whole(*BOTH, do=lambda it: list(it.ledger.check()), per=_events),
    "Ledger.close_overdue_runs": Call(lambda it: it.ledger.close_overdue_runs()),
    "Ledger.conversation": Call(lambda it: it.ledger.conversation(it.key)),
    "Ledger.conversations": whole(CONVERSATIONS, do=lambda it: it.ledger.conversations()),
    "Ledger.conversations(limit)": Call(lambda it: it.ledger.conversations(limit=LIMIT)),
    "Ledger.conversations(search)": whole(
        *BOTH, do=lambda it: it.ledger.conversations(search="parcel"), per=_events, searches=True
    ),
    "Ledger.conversations(search, limit)": whole(
        *BOTH, do=lambda it: it.ledger.conversations(LIMIT, "parcel"), per=_events, searches=True
    ),
    "Ledger.conversations(search of one)": Call(lambda it: it.ledger.conversations(search="0000020"), searches=True),
    **{
        f"Ledger.conversations({name}, limit)": Call(
            lambda it, filters=filters: it.ledger.conversations(limit=LIMIT, **filters)
        )
        for name, filters in {
            "owner": {"owner": "owner-1"},
            "owner, started": {"owner": "owner-1", "order": "started"},
            "tag": {"tag": "odd"},
            "tag, started": {"tag": "odd", "order": "started"},
            "metadata": {"metadata": {"desk": 3}},
            "owner and tag": {"owner": "owner-1", "tag": "odd"},
            "unanswered": {"unanswered": True},
            "answered": {"unanswered": False},
            "archived": {"archived": True},
            "not archived": {"archived": False, "order": "started"},
            "oldest": {"order": "oldest"},
        }.items()
    },
    "Ledger.conversations(since, limit)": Call(
        lambda it: it.ledger.conversations(since=timedelta(days=36_500), limit=LIMIT), per=lambda _: 1
    ),
    "Ledger.conversations(after)": Call(
        lambda it: it[0].ledger.conversations(limit=LIMIT, after=it[1]),
        given=lambda it: (it, it.ledger.conversations(limit=LIMIT).cursor),
        axes=frozenset({CONVERSATIONS}),
    ),
    "Ledger.copy_to": whole(*BOTH, do=lambda it: it.ledger.copy_to(f"sqlite:///{it.new_file}"), brief=True),
    "Ledger.diff": whole(MESSAGES, do=lambda it: it.ledger.diff(it.key), per=_events),
    "Ledger.diff(newest)": whole(
        MESSAGES, do=lambda it: it.ledger.diff(it.key, it.ledger.state(it.key).version - 2).entries
    ),
    "Ledger.events": whole(*BOTH, do=lambda it: it.ledger.events()),
    "Ledger.events(key)": whole(MESSAGES, do=lambda it: it.ledger.events(key=it.key)),
    "Ledger.events(key, after)": Call(lambda it: it[0].ledger.events(it[1], key=it[0].key), given=_last_position),
    "Ledger.events(after)": Call(lambda it: it[0].ledger.events(after=it[1]), given=_last_position),
    "Ledger.events(first)": Call(lambda it: islice(it.ledger.events(), LIMIT), paged=True),
    "Ledger.exchanges(of all)": whole(CONVERSATIONS, do=lambda it: it.ledger.exchanges()),
    "Ledger.exchanges(limit)": Call(lambda it: it.ledger.exchanges(limit=LIMIT)),
    "Ledger.exchanges(after)": Call(
        lambda it: it[0].ledger.exchanges(limit=LIMIT, after=it[1]),
        given=lambda it: (it, it.ledger.exchanges(limit=2).cursor),
    ),
    "Ledger.exchanges(key, limit)": Call(lambda it: it.ledger.exchanges(it.key, limit=LIMIT)),
    "Ledger.exchanges(unanswered)": Call(lambda it: it.ledger.exchanges(unanswered=True, limit=LIMIT)),
    "Ledger.exchanges(actor)": Call(lambda it: it.ledger.exchanges(actor="ann", limit=LIMIT)),
    "Ledger.exchanges": whole(MESSAGES, do=lambda it: it.ledger.exchanges(it.key), per=_events),
    "Ledger.failure_groups": Call(lambda it: it.ledger.failure_groups()),
    "Ledger.failure_groups(actor)": Call(lambda it: it.ledger.failure_groups(actor="ann")),
    "Ledger.failures(actor)": Call(lambda it: it.ledger.failures(actor="ann")),
    "Ledger.failures(after)": Call(
        lambda it: it[0].ledger.failures(limit=LIMIT, after=it[1]),
        given=lambda it: (it, it.ledger.failures(limit=1).cursor),
    ),
    "Ledger.failures": whole(CONVERSATIONS, do=lambda it: it.ledger.failures()),
    "Ledger.failures(limit)": Call(lambda it: it.ledger.failures(limit=LIMIT)),
    "Ledger.failures(since)": Call(lambda it: it.ledger.failures(since=timedelta(minutes=1))),
    "Ledger.fork": whole(MESSAGES, do=lambda it: it.ledger.fork(it.key, it.new), per=_events, writes=True),
    "Ledger.health": Call(lambda it: it.ledger.health()),
    "Ledger.memory": whole(MESSAGES, do=lambda it: it.ledger.memory(it.key).messages),
    "Ledger.mute_group": Call(lambda it: it[0].ledger.mute_group(it[1]), given=lambda it: (it, it.group), writes=True),
    "Ledger.parent": Call(lambda it: it.ledger.parent(it.key)),
    "Ledger.diff_profiles": Call(lambda it: str(it.ledger.diff_profiles(PROFILE, PROFILE))),
    "Ledger.profiles": Call(lambda it: it.ledger.profiles()),
    "Ledger.profiles(limit)": Call(lambda it: it.ledger.profiles(limit=LIMIT)),
    "Ledger.threads": whole(CONVERSATIONS, do=lambda it: it.ledger.threads(), threads=True),
    "Ledger.threads(limit)": Call(lambda it: it.ledger.threads(limit=LIMIT), threads=True),
    "Ledger.threads(same, limit)": Call(lambda it: it.ledger.threads(state="same", limit=LIMIT), threads=True),
    "Ledger.rebuild_views": whole(*BOTH, do=lambda it: it.ledger.rebuild_views(), per=_events),
    "Ledger.reopen_group": Call(
        lambda it: it[0].ledger.reopen_group(it[1]), given=lambda it: (it, it.group), writes=True
    ),
    "Ledger.resolve_group": Call(
        lambda it: it[0].ledger.resolve_group(it[1]), given=lambda it: (it, it.group), writes=True
    ),
    "Ledger.uploads": Call(lambda it: it.ledger.uploads()),
    "Ledger.removable_uploads": Call(lambda it: it.ledger.removable_uploads(now())),
    "Ledger.run": Call(lambda it: it.ledger.run(it.run)),
    "Ledger.runs": whole(CONVERSATIONS, do=lambda it: it.ledger.runs()),
    "Ledger.runs(limit)": Call(lambda it: it.ledger.runs(limit=LIMIT)),
    "Ledger.runs(after)": Call(
        lambda it: it[0].ledger.runs(limit=LIMIT, after=it[1]), given=lambda it: (it, it.ledger.runs(limit=2).cursor)
    ),
    "Ledger.runs(key)": Call(lambda it: it.ledger.runs(key=it.key)),
    "Ledger.runs(key, limit)": Call(lambda it: it.ledger.runs(key=it.key, limit=LIMIT)),
    "Ledger.runs(failed)": Call(lambda it: it.ledger.runs(state="failed", limit=LIMIT)),
    "Ledger.runs(open)": Call(lambda it: it.ledger.runs(state="open", limit=LIMIT)),
    "Ledger.runs(actor)": Call(lambda it: it.ledger.runs(actor="ann", limit=LIMIT)),
    "Ledger.search": whole(*BOTH, do=lambda it: it.ledger.search("parcel"), per=_events, searches=True),
    "Ledger.search(limit)": Call(lambda it: it.ledger.search("parcel", limit=LIMIT), searches=True),
    "Ledger.search(owner, limit)": Call(lambda it: it.ledger.search("parcel", "owner-1", limit=LIMIT), searches=True),
    "Ledger.state": Call(lambda it: it.ledger.state(it.key)),
    "Ledger.status": Call(lambda it: str(it.ledger.status())),
    "Ledger.summary": Call(lambda it: it.ledger.summary()),
    "Ledger.summary(actor)": Call(lambda it: it.ledger.summary(actor="ann")),
    "Ledger.summary(by actor)": Call(lambda it: it.ledger.summary("actor")),
    "Ledger.summary(hour)": Call(lambda it: it.ledger.summary("hour")),
    # Chat
    "Chat.append": Call(lambda it: it.chat.append("user", "And now?"), writes=True),
    "Chat.append(key)": Call(lambda it: it.chat.append("user", "And now?", idempotency_key=it.new), writes=True),
    "Chat.append(again)": Call(lambda it: it.chat.append("user", "And now?", idempotency_key="again"), writes=True),
    "Chat.append(new)": Call(lambda it: it.ledger.conversation(it.new).append("user", "Hello."), writes=True),
    "Chat.ask": Call(lambda it: it.chat.ask("Where is it?"), writes=True),
    "Chat.ask(again)": Call(
        lambda it: it[0].chat.ask("Where is it?", idempotency_key=it[1]), given=_answered, writes=True
    ),
    "Chat.ask(options)": Call(
        lambda it: it.chat.ask("Where is it?", temperature=0.5, metadata={"ticket": "7"}, actor="ann"), writes=True
    ),
    "Chat.append(expected)": Call(
        lambda it: it[0].chat.append("user", "And now?", expected_version=it[1]),
        given=lambda it: (it, it.ledger.state(it.key).version),
        writes=True,
    ),
    "Chat.branches": whole(MESSAGES, do=lambda it: it.chat.branches(), per=_events),
    "Chat.clear": Call(lambda it: it.chat.clear(), axes=frozenset({CONVERSATIONS}), writes=True),
    "Chat.append(deleted)": Call(
        lambda it: it.append("user", "Hello again.", idempotency_key="again"), given=_deleted, writes=True
    ),
    "Chat.delete": Call(lambda it: it.delete("asked for"), given=_copied, writes=True),
    "Chat.memory(deleted)": Call(lambda it: it.memory(last=5).messages, given=_begun_again, writes=True),
    "Chat.describe": Call(lambda it: it.chat.describe(title=it.new, tags=["a", "b"]), writes=True),
    "Chat.describe(read)": Call(lambda it: it.chat.describe()),
    "Chat.edit": Call(lambda it: it[0].chat.edit(it[1], "This."), given=_newest_message, branches=True),
    "Chat.events": whole(MESSAGES, do=lambda it: it.chat.events()),
    "Chat.events(after)": Call(lambda it: it.chat.events(max(it.ledger.state(it.key).version - LIMIT, 0))),
    "Chat.exchange": Call(_own_exchange, writes=True),
    "Chat.extend": Call(lambda it: it.chat.extend([{"role": "user", "content": "One more."}] * LIMIT), writes=True),
    "Chat.extend(again)": Call(
        lambda it: it.chat.extend([{"role": "user", "content": "One more."}] * LIMIT, idempotency_key="list"),
        writes=True,
    ),
    "Chat.failures": Call(lambda it: it.chat.failures()),
    "Chat.memory": whole(MESSAGES, do=lambda it: it.chat.memory().messages),
    "Chat.memory(last)": Call(lambda it: it.chat.memory(last=5).messages),
    "Chat.memory(tokens)": Call(lambda it: it.chat.memory(tokens=50).messages),
    "Chat.pin": Call(lambda it: it[0].chat.pin(it[1]), given=_newest_message, branches=True),
    "Chat.rate": Call(lambda it: it[0].chat.rate(it[1], 1), given=_newest_message, writes=True),
    "Chat.regenerate": Call(lambda it: it[0].chat.regenerate(), given=_answered, branches=True),
    "Chat.rerun": Call(lambda it: it[0].chat.rerun(it[1]), given=_abandoned, writes=True),
    "Chat.rerun(options)": Call(lambda it: it[0].chat.rerun(it[1], temperature=0.5), given=_abandoned, writes=True),
    "Chat.retract": Call(lambda it: it[0].chat.retract(it[1]), given=_newest_message, writes=True),
    "Chat.run": Call(_own_run, writes=True),
    "Chat.run(failed)": Call(_failed_run, writes=True),
    "Chat.select_branch": Call(lambda it: it[0].chat.select_branch(it[1]), given=_newest_message, branches=True),
    "Chat.stream": Call(lambda it: sum(1 for _ in it.chat.stream("Where is it?")), writes=True),
    "Chat.stream_regenerate": Call(
        lambda it: sum(1 for _ in it[0].chat.stream_regenerate()), given=_answered, branches=True
    ),
    "Chat.variants": Call(lambda it: it[0].chat.variants(it[1]), given=_edited_message, branches=True),
    # Queries of an audit
    "FailureGroups.all": Call(lambda it: it.groups.all(), per=lambda _: 1),
    "FailureGroups.book": Call(lambda it: it.groups.book()),
    "FailureGroups.get": Call(lambda it: it[0].groups.get(it[1]), given=lambda it: (it, it.group)),
    "FailureGroups.orphans": Call(lambda it: it.groups.orphans()),
    "ApiKeys.add": Call(lambda it: it.ledger.api_keys.add(it.new), writes=True),
    "ApiKeys.all": Call(lambda it: it.ledger.api_keys.all(), per=lambda _: 1),
    "ApiKeys.any_exists": Call(lambda it: it.ledger.api_keys.any_exists()),
    "ApiKeys.find": Call(lambda it: it.ledger.api_keys.find("tl-0")),
    "ApiKeys.revoke": Call(
        lambda it: it[0].api_keys.revoke(it[1]), given=lambda it: (it.ledger, _with_key(it)), writes=True
    ),
    "defined_profile": Call(lambda it: defined_profile(it.ledger.journal, "0" * 64)),
    "follow_failures": Call(lambda it: islice(follow_failures(it.ledger.journal, FailureFilter(), 2), 2)),
    "memory_shown": Call(
        lambda it: memory_shown(it[0].ledger.journal, it[1]).memory.messages,
        given=lambda it: (it, it.ledger.run(it.run)[0]),
        paged=True,
    ),
    "threads_behind": Call(lambda it: threads_behind(it.ledger.journal, it.ledger.services), threads=True),
    "unanswered_exchanges": whole(
        MESSAGES,
        do=lambda it: unanswered_exchanges(it[0].ledger.journal, it[0].key, it[1]),
        given=lambda it: (it, it.memory),
        per=_events,
    ),
    # Plans
    "Replay.job": Call(
        lambda it: it[0].job(it[1]), given=_planned_job, threads=True, axes=frozenset({CONVERSATIONS}), writes=True
    ),
    "lags_among": Call(lambda it: lags_among(it.ledger.journal, it.ledger.services, [it.key]), threads=True),
    "Replay.jobs": Call(lambda it: it.ledger.replay.jobs(), threads=True, writes=True),
    "Replay.keys": whole(CONVERSATIONS, do=lambda it: it.ledger.replay.keys(None)),
    "Replay.places": whole(CONVERSATIONS, do=lambda it: it.ledger.replay.places(None, None)),
    "Replay.plan_orphans": Call(lambda it: _items(it.ledger.replay.plan_orphans()), threads=True),
    "Replay.plan_verify": whole(
        CONVERSATIONS,
        do=lambda it: it.ledger.replay.plan_verify(to="conversations"),
        per=lambda it: it.ledger.journal.status()["conversations"],
    ),
    "Replay.plan_rebuild": whole(
        CONVERSATIONS, do=lambda it: it.ledger.replay.plan_rebuild(), per=_events, threads=True
    ),
    "Replay.plan_rebuild(items)": whole(
        *BOTH, do=lambda it: _items(it.ledger.replay.plan_rebuild()), per=_events, threads=True
    ),
    "Replay.plan_rebuild(key)": Call(lambda it: it.ledger.replay.plan_rebuild([it.key]), threads=True),
    "Replay.plan_rebuild(limit)": Call(lambda it: it.ledger.replay.plan_rebuild(limit=LIMIT), threads=True),
    "Replay.plan_rebuild(search)": whole(
        *BOTH, do=lambda it: it.ledger.replay.plan_rebuild(search="parcel"), per=_events, searches=True, threads=True
    ),
    "Replay.plan_rebuild_file": whole(
        CONVERSATIONS, do=lambda it: it.ledger.replay.plan_rebuild_file(it.new_file), per=_events, threads=True
    ),
    "Replay.plan_reconcile": whole(
        CONVERSATIONS, do=lambda it: it.ledger.replay.plan_reconcile(), per=_events, threads=True
    ),
    "Replay.plan_reconcile(key)": Call(lambda it: it.ledger.replay.plan_reconcile([it.key]), threads=True),
    "Replay.plan_rerun(failed)": whole(CONVERSATIONS, do=lambda it: _items(it.ledger.replay.plan_rerun(failed=True))),
    "Replay.plan_rerun(run)": Call(lambda it: _items(it.ledger.replay.plan_rerun([it.run]))),
    "Replay.results": Call(
        lambda it: it[0].results(it[1]),
        given=_planned_job,
        threads=True,
        axes=frozenset({CONVERSATIONS}),
        writes=True,
    ),
    "Replay.verify": whole(
        CONVERSATIONS,
        do=lambda it: it.ledger.replay.verify(),
        threads=True,
        brief=True,
        axes=frozenset({CONVERSATIONS}),
    ),
    # Memory: work in Python alone
    **{
        f"Memory.{name}": whole(MESSAGES, do=do, given=lambda it: it.memory, axes=frozenset({MESSAGES}), per=_events)
        for name, do in {
            "available": lambda it: it.available(),
            "chat_entries": lambda it: it.chat_entries(),
            "lost_parts": lambda it: it.lost_parts("chat"),
            "response_entries": lambda it: it.response_entries(),
            "as_chat_messages": lambda it: it.as_chat_messages(),
            "as_response_items": lambda it: it.as_response_items(),
            "by_rule": lambda it: it.by_rule("all"),
            "digest": lambda it: it.digest(),
            "estimated_tokens": lambda it: it.estimated_tokens(),
            "for_place": lambda it: it.for_place(),
            "in_thread": lambda it: it.in_thread("thread_1"),
            "mended": lambda it: it.mended(),
            "paired": lambda it: it.paired(),
            "settled": lambda it: it.settled(),
            "shown": lambda it: it.shown(),
            "window": lambda it: it.window(tokens=1_000),
            "with_messages": lambda it: it.with_messages([]),
        }.items()
    },
    "tool_names": Call(lambda it: tool_names(Profile("John", "Be kind.", "gpt-4o", '[{"type":"file_search"}]'))),
}
"""Every public call, by class and name; a text in brackets tells several calls of one name apart."""

FIRST: dict[str, Call] = {
    "Ledger.conversations": whole(*BOTH, do=lambda it: it.ledger.conversations(limit=1), per=_events),
    "Ledger.conversations(search)": whole(
        *BOTH, do=lambda it: it.ledger.conversations(1, "parcel"), per=_events, searches=True
    ),
    "Ledger.failures": whole(*BOTH, do=lambda it: it.ledger.failures(limit=1), per=_events),
}
"""Calls that build a view from nothing: they read every event by nature, and the cost of each is compared."""

EXCEPTIONS: dict[str, str] = {
    "Chat.approve": "a run in the exchange that waits, which is in the head: see Chat.ask",
    "Chat.compact": "reads what the summary covers, by nature; the next one begins with that summary",
    "Chat.reject": "see Chat.approve",
    "Memory.covered_version": "a value",
    "Memory.summary_id": "a value",
    "Memory.with_hash": "makes an object",
    "Ledger.as_actor": "makes objects; reads no rows",
    "Ledger.read_blob": "reads one attachment, in chunks",
    "Ledger.remove_upload": "deletes one file at a provider, and writes one event to its own stream",
    "Memory.read_blob": "a function",
    "AsyncLedger.remove_upload": "the effects of Ledger.remove_upload",
    "AsyncLedger.as_actor": "makes objects; reads no rows",
    "Ledger.close": "closes files; reads no rows",
    "Ledger.outside": "an older name of services",
    "Ledger.replay": "makes an object; its plans are in the table",
    "Ledger.api_keys": "makes an object; its methods are in the table",
    "ApiKey": "a value",
    "ApiKeys": "a class; its methods are in the table",
    "AssistantRecord": "a value",
    "AssistantStore": "a class of the server; test_growth_of_assistants.py calls its methods",
    "FileRecord": "a value",
    "FileStore": "a class of the server; test_growth_of_files.py calls its methods",
    "VectorStoreRecord": "a value",
    "VectorStores": "a class of the server; test_growth_of_files.py calls its methods",
    "Ledger.schema_before": "a value that was noted when the ledger was opened",
    "Ledger.services": "makes objects; reads no rows",
    "Ledger.services_in_use": "a value",
    "FailureGroups": "a class; its methods are in the table",
    "FailureGroups.mute": "see Ledger.mute_group",
    "FailureGroups.reopen": "see Ledger.reopen_group",
    "FailureGroups.resolve": "see Ledger.resolve_group",
    "ExchangePage": "a value",
    "LaggingThread": "a value",
    "ListedProfile": "a value",
    "ListedThread": "a value",
    "Page": "a value",
    "ProfileDiff": "a value",
    "ShownMemory": "a value",
    "Replay.reopen": "reads the outcomes of one job, by nature",
    "why_failed": "searches the newest events for a failed run: part of Chat.run",
    "Memory.first_version": "a value",
    "Memory.has_parts": "known from the head, or from the messages that are read for it",
    "Memory.is_empty": "known from the hash",
    "Memory.knowing": "makes an object",
    "Memory.newest_version": "looks at one row",
    "Memory.of_source": "makes an object",
    "Memory.path_hash": "a value",
    "Memory.read_later": "makes an object",
    "Memory.was_read": "a value",
    "Memory.ran_in": "looks up one message",
    "Memory.rule": "a value",
    "Memory.version": "a value",
    "Replay.cancel": "writes one event to the job's own stream",
    "Replay.compare": "reads the conversation of one item, as Ledger.exchanges does",
    "Replay.plan_of": "makes the plan of a job again: see the plans",
    "Replay.plan_rerun": "see its two calls",
    "Replay.resume": "does the work of the plan that it resumes",
    "Replay.verifying": "the effects of Replay.verify",
    "AsyncLedger.check": "the findings of Ledger.check, listed in a thread",
    "AsyncLedger.close": "closes files; reads no rows",
    "AsyncLedger.conversation": "makes an object",
    "AsyncLedger.replay": "makes an object",
    "AsyncLedger.api_keys": "makes an object",
    "AsyncLedger.schema_before": "a value",
    "AsyncChat.ask": "the effects of Chat.ask",
    "AsyncChat.approve": "the effects of Chat.approve",
    "AsyncChat.compact": "the effects of Chat.compact",
    "AsyncChat.delete": "the effects of Chat.delete",
    "AsyncChat.regenerate": "the effects of Chat.regenerate",
    "AsyncChat.reject": "the effects of Chat.reject",
    "AsyncChat.stream_regenerate": "the effects of Chat.stream_regenerate",
    "AsyncChat.rerun": "the effects of Chat.rerun",
    "AsyncChat.stream": "the effects of Chat.stream",
    "AsyncReplay.resume": "does the work of the plan that it resumes",
}
"""Public names without a call, each with its reason."""


def name_of(call: str) -> str:
    """Return the public name that a call of the table has."""
    return call.partition("(")[0]


def public_names(*classes: type) -> Iterable[str]:
    """Yield the public names of classes, with the name of the class before them."""
    for each in classes:
        yield from (f"{each.__name__}.{name}" for name in dir(each) if not name.startswith("_"))


async def _listed(results: Any) -> list[Any]:
    return [each async for each in results]


async def _own_run_awaited(it: Any, place: Place) -> None:
    async with it.conversation(place.key).run("own", "own-model") as run:
        await run.complete("Tomorrow.")


async def _own_exchange_awaited(it: Any, place: Place) -> None:
    async with it.conversation(place.key).exchange():
        await _own_run_awaited(it, place)


AWAITED: dict[str, Callable[[Any, Place], Any]] = {
    "AsyncLedger.events": lambda it, place: _listed(it.events(_last_position(place)[1])),
    "AsyncLedger.fork": lambda it, place: it.fork(place.key, place.new, at=2),
    "AsyncChat.append": lambda it, place: it.conversation(place.key).append("user", "And now?"),
    "AsyncChat.exchange": _own_exchange_awaited,
    "AsyncChat.extend": lambda it, place: it.conversation(place.key).extend([{"role": "user", "content": "More."}]),
    "AsyncChat.run": _own_run_awaited,
    "AsyncChat.edit": lambda it, place: it.conversation(place.key).edit(_newest_message(place)[1], "This."),
    "AsyncChat.select_branch": lambda it, place: it.conversation(place.key).select_branch(_newest_message(place)[1]),
}
"""Calls of asynchronous twins that are written for themselves; the others call the blocking method in a thread."""
