"""Make the documents of conversations: what `list`, `show` and `fork` print, and the words for parts and events."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from .words import counted, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadledger.domain.conversation import ConversationState
    from threadledger.domain.ledger import Ledger
    from threadledger.domain.memory.tree import TreeMessage


def conversation_document(state: ConversationState) -> dict[str, Any]:
    """Return a conversation as a JSON object; docs/commands.md lists the keys under `list`."""
    from threadledger.domain.conversation.description import Description

    return {
        "key": state.key,
        "version": state.version,
        "messages": state.messages,
        "exchanges": state.exchanges,
        "failed_runs": state.failed_runs,
        "unanswered": state.unanswered,
        "threads": threads_document(state),
        "started_at": state.started_at,
        "last_at": state.last_at,
        "written_at": state.written_at,
        **(state.description or Description()).as_json(),
    }


def threads_document(state: ConversationState) -> dict[str, Any]:
    """Return the linked threads of a conversation as JSON, by kind."""
    return {
        name: {"thread_id": link.thread_id, "endpoint": link.endpoint, "lost": link.lost}
        for name, link in state.links.items()
    }


def shown_conversation_document(
    ledger: Ledger,
    key: str,
    at: datetime | int | None = None,
    last: int | None = None,
    view: str = "chat",
    *,
    full: bool = False,
) -> dict[str, Any]:
    """Return the JSON object of `show`; docs/commands.md lists its keys.

    Args:
        ledger: the ledger, which is read.
        key: key of the conversation.
        at: the version or time as of which it is shown; by default the newest version.
        last: number of its newest messages that are shown; by default all of them.
        view: `chat`, `timeline` (with all events up to the version), or `memory` (the messages as a model sees them).
        full: whether the originals are shown instead of a summary.

    Raises:
        ConversationNotFound: no conversation has this key.
        ChangedEvent: an event is missing, or was changed.
    """
    from threadledger.domain.ledger import unanswered_exchanges

    state = ledger.state(key)
    memory = ledger.journal.memory(key, at, last, full=full)
    messages = memory.paired() if view == "memory" else memory.messages
    document: dict[str, Any] = {
        "key": key,
        "version": memory.version,
        "messages": [each.as_json() for each in messages],
        "threads": threads_document(state),
    }
    waiting = {name for name, each in state.open_exchanges.items() if each.waits}
    unanswered = [each for each in unanswered_exchanges(ledger.journal, key, memory) if each.exchange_id not in waiting]
    if unanswered:
        document["unanswered"] = [each.as_json() for each in unanswered]
    if waiting:
        document["pending"] = _pending(ledger, key, state)
    parent = ledger.parent(key)
    if parent is not None:
        document["parent"] = {"key": parent[0], "version": parent[1]}
    if view == "timeline":
        logged = [each.as_json() for each in ledger.events(key=key, checked=True)]
        document["events"] = [each for each in logged if each["version"] <= memory.version]
    return document


def _pending(ledger: Ledger, key: str, state: ConversationState) -> list[dict[str, Any]]:
    """Return the tool calls that wait for a person; `decision` is null, or what has not been continued yet."""
    found = []
    for exchange in state.open_exchanges.values():
        said = ledger.journal.places(key).at(exchange.tail_version).message if exchange.tail_version else None
        calls = {call.id: call for call in said.calls()} if said is not None else {}
        for call_id, decision in (exchange.waits_for or {}).items() if exchange.waits else ():
            call = calls.get(call_id)
            name, arguments = (call.name, call.arguments) if call is not None else (None, None)
            found.append({"call_id": call_id, "name": name, "arguments": arguments, "decision": decision or None})
    return found


def fork_document(ledger: Ledger, key: str) -> dict[str, Any]:
    """Return the JSON object of a new fork; docs/commands.md lists its keys."""
    state, parent = ledger.state(key), ledger.parent(key)
    source, version = parent if parent is not None else (None, None)
    parent_document = {"key": source, "version": version}
    return {"key": key, "version": state.version, "messages": state.messages, "parent": parent_document}


def part_in_words(part: dict[str, Any]) -> str:
    """Return the text of a content part, or what else it is."""
    from threadledger.domain.conversation.attachments import described

    text = part.get("text") if part.get("type") != "reasoning" else None
    return text if isinstance(text, str) else f"[{described(part)}]"


def event_in_words(kind: str, data: dict[str, Any]) -> str:
    """Describe one event of a timeline in a few words, by its type and its `data`."""
    match kind:
        case "MessageJournaled":
            calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in data["tool_calls"]]
            content = data["content"] or ""
            said = content if isinstance(content, str) else " ".join(map(part_in_words, content))
            return f"{data['role']}: {' '.join(filter(None, [said, *calls]))[:100]}"
        case "RunStarted":
            kind = "shadow run" if data["shadow"] else "run"
            asked = f"{data['backend']} ({data['model']})"
            return f"{kind} {short(data['run_id'])} on {asked}, attempt {data['attempt']}"
        case "RunCompleted":
            ended = "called tools" if data["goes_on"] else "answered"
            if data["finish_reason"] == "found_in_thread":
                return f"run {short(data['run_id'])} found the answer in the thread; its token usage is unknown"
            return f"run {short(data['run_id'])} {ended}, {data['usage'].get('total_tokens', 0)} tokens"
        case "RunFailed":
            http = f"HTTP {data['http_status']}" if data["http_status"] else None
            facts = ", ".join(str(fact) for fact in (http, data["code"], data["message"]) if fact)
            return f"run {short(data['run_id'])} {data['status']}: {facts}"
        case "FallbackUsed":
            without = f", without {', '.join(data['dropped'])}" if data["dropped"] else ""
            return f"{data['from_backend']} → {data['to_backend']}{without}: {data['reason'][:80]}"
        case "ThreadLinked" | "ThreadRebuilt" | "ThreadLost" | "ThreadReconciled":
            return _about_thread(kind, data)
        case "ExchangeRequested" | "ExchangeAbandoned" | "ExchangeCancelled":
            return _requested(data) if kind == "ExchangeRequested" else _ended(kind, data)
        case (
            "ConversationStarted"
            | "ConversationDescribed"
            | "ConversationDeleted"
            | "MemoryCleared"
            | "ToolResourcesDescribed"
        ):
            return _about_conversation(kind, data)
        case "ToolCallDecided" | "RerunAccepted" | "BranchSelected" | "MemoryCompacted":
            return _about_memory(kind, data)
        case (
            "MessageRetracted"
            | "MessagePinned"
            | "MessageRated"
            | "MessageDescribed"
            | "SessionItemsKept"
            | "ExchangeDescribed"
        ):
            return _about_message(kind, data)
        case "CompletionStored" | "CompletionDeleted" | "ResponseDeleted":
            return _about_completion(kind, data)
    return ", ".join(
        f"{name} {value}" for name, value in data.items() if name != "actor" and isinstance(value, (str, int)) and value
    )[:100]


def _about_thread(kind: str, data: dict[str, Any]) -> str:
    thread = f"{data['backend']} thread {data['thread_id']}"
    if kind == "ThreadLost":
        return f"{thread}: {data['reason']}"
    if kind == "ThreadReconciled":
        numbers = (("sent", data["sent"]), ("deleted", len(data["deleted"])), ("adopted", data["adopted"]))
        done = ", ".join(f"{counted(number, 'item')} {what}" for what, number in numbers if number)
        return f"{thread}: {done}: {data['reason']}"
    return thread


def _about_conversation(kind: str, data: dict[str, Any]) -> str:
    if kind == "ConversationDeleted":
        return "the conversation was deleted" + _because(data["reason"])
    if kind == "MemoryCleared":
        return f"memory is empty up to version {data['up_to_version']}" + _because(data["reason"])
    if kind == "ConversationDescribed":
        return _described(data)
    if kind == "ToolResourcesDescribed":
        search = data["tool_resources"].get("file_search") or {}
        return f"runs search {', '.join(search.get('vector_store_ids') or ()) or 'no vector store'}"[:100]
    if data["parent_key"] is not None:
        return f"forked from {data['parent_key']} at version {data['parent_version']}"
    if data["generation"]:
        return f"the conversation starts again, after {counted(data['generation'], 'deletion')}"
    return "the conversation starts" + (
        f" with metadata {', '.join(data['metadata'])}"[:100] if data["metadata"] else ""
    )


def _described(data: dict[str, Any]) -> str:
    facts = []
    for name in ("title", "owner", "tags", "metadata"):
        value = data[name]
        if value is not None:
            shown = value if isinstance(value, str) else ", ".join(value)
            facts.append(f"{name} {shown}" if shown else f"no {name}")
    if data["archived"] is not None:
        facts.append("archived" if data["archived"] else "no longer archived")
    return "; ".join(facts)[:100]


def _requested(data: dict[str, Any]) -> str:
    """Return which question is run again, and what was sent beyond the defaults."""
    question, facts = data["question_message_id"], []
    if data["profile_hash"]:
        facts.append(f"profile {data['profile_hash'][:PROFILE_HASH_CHARS]}")
    facts += [f"{name} {data[name]}" for name in ("model", "backend") if data[name]]
    if data["timeout_seconds"] is not None:
        facts.append(f"a limit of {data['timeout_seconds']:g} s")
    if data["metadata"]:
        facts.append(f"metadata {', '.join(data['metadata'])}")
    chosen = f"with {', '.join(facts)}" if facts else ""
    if data["surface"] is not None:
        runs = f"requested by the served API ({data['surface']})"
    else:
        runs = f"runs the question {short(question)} again" if question else "requested"
    return f"{runs} {chosen}".strip()


def _ended(kind: str, data: dict[str, Any]) -> str:
    return kind.removeprefix("Exchange").lower() + _because(data["reason"])


def _about_memory(kind: str, data: dict[str, Any]) -> str:
    if kind == "ToolCallDecided":
        return f"call {data['call_id']} {'approved' if data['approved'] else 'rejected'}" + _because(data["reason"])
    if kind == "MemoryCompacted":
        covered = short(data["covers_message_id"])
        return f"the summary {short(data['message_id'])} is shown in place of the messages up to {covered}"
    if kind == "RerunAccepted":
        run, old, before = short(data["run_id"]), data["superseded_run_id"], data["behind_message_id"]
        if old:
            return f"run {run} answers in place of {short(old)}"
        return f"the answer of run {run} follows {short(before)}" if before else f"run {run} answers the exchange"
    end = short(data["message_id"])
    return f"memory ends {f'with {end}' if end else 'before the first message'}" + _because(data["reason"])


def _about_message(kind: str, data: dict[str, Any]) -> str:
    if kind == "ExchangeDescribed":
        return f"metadata of the exchange: {', '.join(data['metadata']) or 'none'}"[:100]
    name = short(data["message_id"])
    if kind == "MessageDescribed":
        return f"metadata of {name}: {', '.join(data['metadata']) or 'none'}"[:100]
    if kind == "SessionItemsKept":
        return f"{name} is kept as {counted(len(data['native'].get('items', ())), 'item')} of a session"
    if kind == "MessageRetracted":
        return f"{name} retracted" + _because(data["reason"])
    if kind == "MessagePinned":
        return f"{name} {'pinned' if data['pinned'] else 'no longer pinned'}"
    return f"{name} rated {data['score']:g}" + _because(data["comment"])


def _about_completion(kind: str, data: dict[str, Any]) -> str:
    if kind != "CompletionStored":
        return f"{data.get('completion_id') or data['response_id']} can no longer be read"
    given = f" with metadata {', '.join(data['metadata'])}" if data["metadata"] else ""
    return f"{data['completion_id']} can be read: the answer {short(data['message_id'])}{given}"[:100]


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


PROFILE_HASH_CHARS = 8
"""First characters of a profile's hash, by which a timeline names it."""

SAID_CHARS = 200
"""Number of characters of a message's text in a tree."""


def tree_document(ledger: Ledger, key: str) -> dict[str, Any]:
    """Return all messages of a conversation with their branches, each after the one that it follows.

    `depth` is the number of times that several messages follow the same one before it. A summary is no branch: it is listed
    after the last message for which it stands (`covered`).

    Raises:
        ConversationNotFound: no conversation has this key.
        ChangedEvent: an event is missing, or was changed.
    """
    places, memory, state = ledger.journal.places(key), ledger.journal.memory(key), ledger.state(key)
    shown = {each.message_id for each in memory.messages}
    messages: list[dict[str, Any]] = []
    waiting = _below(places.tree().roots(), "", 0)
    while waiting:
        node, parent, depth = waiting.pop()
        own = node.message
        messages.append(
            {
                "message_id": own.message_id,
                "version": own.version,
                "role": own.role_name,
                "says": " ".join(node.says.split())[:SAID_CHARS],
                "parent": parent or None,
                "depth": depth,
                "selected": own.message_id == memory.summary_id if node.is_summary else node.selected,
                "hidden": node.hidden,
                "summary": node.is_summary,
                "covered": node.selected and not node.hidden and own.message_id not in shown,
                "pinned": own.message_id in (state.pins or {}),
            }
        )
        waiting += _below(node.following, own.message_id, depth)
    return {"key": key, "version": state.version, "messages": messages}


def _below(following: Sequence[TreeMessage], parent: str, depth: int) -> list[tuple[TreeMessage, str, int]]:
    """Return the messages that follow one, the first of them last: summaries, then what continues it."""
    summaries = [each for each in following if each.is_summary]
    others = [each for each in following if not each.is_summary]
    below = depth + 1 if len(others) > 1 else depth
    listed = [*((each, parent, depth) for each in summaries), *((each, parent, below) for each in others)]
    return listed[::-1]
