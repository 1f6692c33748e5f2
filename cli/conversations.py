"""Implement `threadledger list`, `show` and `fork` for conversations, and `events`, which prints the event log."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from .describe import pairs_of
from .main import IN_KEY, KEY, Exit, MomentParameter, common, complete_keys, invocation, opened
from .output import (
    clock,
    counted,
    emit_many,
    emit_one,
    print_json,
    print_line,
    print_text,
    prose,
    short,
    short_thread,
    table,
)
from .pages import SinceParameter, emit_page, with_cursor
from .terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from threadledger.domain.conversation import ConversationState
    from threadledger.domain.conversation.listing import ConversationFilter
    from threadledger.domain.ledger import Ledger


@click.command("list")
@click.option(
    "--search",
    type=KEY,
    metavar="TEXT",
    help="Only conversations whose key or messages contain these words or word beginnings; case and accents are ignored.",
)
@click.option("--owner", type=KEY, metavar="ID", help="Only those of this owner.")
@click.option("--tag", "tags", type=KEY, multiple=True, metavar="T", help="Only those with this tag; can be repeated.")
@click.option("--metadata", type=KEY, multiple=True, metavar="K=V", help="Only those with this text; can be repeated.")
@click.option("--unanswered", is_flag=True, help="Only those with a question that nothing answers any more.")
@click.option("--pending", is_flag=True, help="Only those with a tool call that waits for a decision.")
@click.option("--archived", is_flag=True, help="Only archived ones, which are left out otherwise.")
@click.option("--since", type=SinceParameter(), metavar="T", help="Only those that have changed since this time.")
@click.option(
    "--order",
    type=click.Choice(["newest", "oldest", "started"]),
    default="newest",
    help="Last changed first by default.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N conversations.")
@click.option("--after", type=KEY, metavar="CURSOR", help="Continue after a page with the same filters.")
@with_cursor
@common
def list_(
    search: str | None,
    owner: str | None,
    tags: tuple[str, ...],
    metadata: tuple[str, ...],
    unanswered: bool,
    pending: bool,
    archived: bool,
    since: datetime | timedelta | None,
    order: str,
    limit: int | None,
    after: str | None,
    cursor: bool,
) -> int:
    """List conversations, newest first.

    With --limit, the command for the next page is printed on stderr.
    """
    from threadledger.adapters.documents import conversation_document
    from threadledger.domain.conversation.listing import ConversationFilter

    wanted = ConversationFilter.of(
        owner,
        tags or None,
        pairs_of(metadata) or None,
        True if unanswered else None,
        archived,
        since,
        search,
        order,
        True if pending else None,
    )
    with opened(reads=True) as ledger:
        columns = ("key", "title", "owner", "messages", "exchanges", "failed_runs", "unanswered", "threads", "last")
        spare = ("exchanges", "messages", "threads", "title")
        document = _as_row if invocation().output == "table" else conversation_document
        if limit is None and after is None and not cursor:  # row by row, however many there are
            states = ledger.journal.views.each_conversation(wanted)
            emit_many(map(document, states), columns, empty=_nothing_found(wanted), spare=spare)
            return Exit.DONE
        page = ledger.conversations(**wanted.as_keywords(), limit=limit, after=after)
        emit_page(map(document, page), columns, page.cursor, cursor, empty=_nothing_found(wanted), spare=spare)
    return Exit.DONE


def _nothing_found(wanted: ConversationFilter) -> str:
    if wanted.search:
        return f"no conversation contains {wanted.search!r}"
    if wanted.is_everything():
        return "no conversations yet: start one with: threadledger ask KEY TEXT"
    return "no conversation matches"


def _as_row(state: ConversationState) -> dict[str, Any]:
    from threadledger.adapters.documents import conversation_document

    row = conversation_document(state)
    return row | {"last": clock(row["written_at"] or row["last_at"]), "threads": _thread_ids(row["threads"])}


def _thread_ids(threads: dict[str, Any]) -> dict[str, str]:
    return {
        name: short_thread(link["thread_id"]) + (" (lost)" if link["lost"] else "") for name, link in threads.items()
    }


ROLE_STYLES = {"user": "cyan", "assistant": "green", "tool": "yellow", "system": "magenta", "developer": "magenta"}


@click.command()
@IN_KEY
@click.option(
    "--at",
    type=MomentParameter(versions=True),
    metavar="VERSION|TIME",
    help="Show the conversation as of this version or time.",
)
@click.option("--view", type=click.Choice(["chat", "timeline", "memory"]), default="chat", show_default=True)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Show only the newest N messages.")
@click.option("--full", is_flag=True, help="Show the messages that a summary stands for, and not the summary.")
@click.option("--tree", is_flag=True, help="Show every branch, with the end of each message's id.")
@click.option(
    "--unchecked", is_flag=True, help="Show damaged events too, and name them on stderr. Exit 4 if there are any."
)
@common
def show(
    key: str, at: datetime | int | None, view: str, last: int | None, full: bool, tree: bool, unchecked: bool
) -> int:
    """Show conversation KEY as a chat, as a timeline of its events, or as the exact memory for a model.

    Every event is compared with its leaf hash. If one was changed or is missing, nothing is shown (exit 4).
    """
    from threadledger.adapters.documents import shown_conversation_document, tree_document

    if tree and (at is not None or last is not None or view != "chat"):
        raise click.UsageError("--tree shows all branches as they are now: use it without --at, --last and --view.")
    with opened(reads=True) as ledger:
        result = _uncheck(ledger) if unchecked else None
        thing = (
            tree_document(ledger, key) if tree else shown_conversation_document(ledger, key, at, last, view, full=full)
        )
    emit_one(thing, lambda console: (_draw_tree if tree else _draw)(console, thing))
    return result() if result is not None else Exit.DONE


def _uncheck(ledger: Ledger) -> Callable[[], int]:
    from .forensics import uncheck

    return uncheck(ledger)


def _draw(console: Console, thing: dict[str, Any]) -> None:
    from rich.text import Text

    from threadledger.adapters.documents import event_in_words

    console.print(Text(f"{printable(thing['key'], lines=False)}  version {thing['version']}", style="bold"))
    if "parent" in thing:
        parent = thing["parent"]
        forked = f"forked from {printable(parent['key'], lines=False)} at version {parent['version']}"
        console.print(Text(forked, style="dim"))
    for name, link in thing["threads"].items():
        lost = f"  LOST: {link['lost']}" if link["lost"] else ""
        console.print(Text(f"{name} thread {link['thread_id']}{lost}", style="red" if lost else "dim"))
    console.print()
    if "events" in thing:
        rows = [
            event
            | {"at": clock(event["at"]), "actor": event["data"].get("actor")}
            | {"what": event_in_words(event["type"], event["data"])}
            for event in thing["events"]
        ]
        console.print(table(rows, ("version", "at", "type", "actor", "what")))
        return
    for waiting in thing.get("pending", ()):
        _draw_pending(console, thing["key"], waiting)
    unanswered = {each["version"]: each for each in thing.get("unanswered", ())}
    for message in thing["messages"]:
        _draw_message(console, message)
        if message["version"] in unanswered:
            _draw_unanswered(console, thing["key"], unanswered[message["version"]])


def _draw_pending(console: Console, key: str, waiting: dict[str, Any]) -> None:
    """Print a tool call that waits for a person, and the command that decides on it."""
    call_id, decision = waiting["call_id"], waiting["decision"]
    call = f"{waiting['name']}({waiting['arguments']})" if waiting["name"] is not None else f"call {call_id}"
    command = f"threadledger call {'reject' if decision == 'rejected' else 'approve'} {shlex.quote(key)} {call_id}"
    said = f"waits for a decision on {call}: {command}, or call reject"
    if decision is not None:
        said = f"{call} was {decision}, and no run has continued it yet; if its process has stopped, repeat: {command}"
    prose(console, said, style="yellow")


TREE_MARKS = ("hidden", "summary", "covered", "pinned")
"""Keys of a message in a tree that are shown as words, if they are true."""


def _draw_tree(console: Console, thing: dict[str, Any]) -> None:
    """Print one message a line, and a line at the left for each branch that continues; the selected messages are marked."""
    from rich.text import Text

    console.print(Text(f"{printable(thing['key'], lines=False)}  version {thing['version']}", style="bold"))
    messages = thing["messages"]
    left = Counter(each["parent"] for each in messages if not each["summary"])
    branching = {parent for parent, count in left.items() if count > 1}
    continues: dict[int, str] = {}
    for message in messages:
        depth, parent = message["depth"], message["parent"]
        lines = [continues.get(level, "") for level in range(1, depth + 1)]
        if parent in branching and not message["summary"]:
            left[parent] -= 1
            lines[-1] = "├─ " if left[parent] else "└─ "
            continues[depth] = "│  " if left[parent] else "   "
        text = Text("".join(lines), style="dim")
        text.append("* " if message["selected"] else "  ", style="bold green")
        text.append(short(message["message_id"]), style="dim")
        marks = "".join(f" {mark}" for mark in TREE_MARKS if message[mark])
        text.append(f"  {message['role']}{marks}  ", style=ROLE_STYLES.get(message["role"], ""))
        text.append(printable(message["says"], lines=False), style="dim" if not message["selected"] else "")
        print_line(console, text)


def _draw_message(console: Console, message: dict[str, Any]) -> None:
    from rich.text import Text

    from threadledger.adapters.documents import part_in_words

    role = message["role"]
    source = "" if message["source"] in {"app", "run"} else f"  ({message['source']})"
    head = Text(f"{role}{source}", style=f"bold {ROLE_STYLES.get(role, '')}".strip())
    head.append(f"  {clock(message['written_at'] or message['at'])}  v{message['version']}", style="dim")
    console.print(head)
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part_in_words(part) for part in content or ()]
    texts += [f"{call['function']['name']}({call['function']['arguments']})" for call in message["tool_calls"]]
    for text in texts:
        print_text(console, text)
    console.print()


def _draw_unanswered(console: Console, key: str, exchange: dict[str, Any]) -> None:
    """Print that a question has no answer, why, and what to do."""
    so_far = "not answered" if exchange["state"] == "abandoned" or exchange["run_id"] else "not answered yet"
    prose(console, f"{so_far}: {exchange['reason']}", style="red")
    more = f"threadledger audit show {short(exchange['run_id'])}"
    if exchange["run_id"] is None:
        more = f"threadledger show {shlex.quote(key)} --view timeline"
    advice = exchange["advice"] or ""
    for line in filter(None, (advice, "" if more in advice else f"see: {more}")):
        prose(console, line, indent=2)
    console.print()


@click.command()
@IN_KEY
@click.argument("new_key", type=KEY, metavar="NEWKEY")
@click.option(
    "--at",
    type=MomentParameter(versions=True),
    metavar="VERSION|TIME",
    help="Copy the conversation as of this version or time.",
)
@common
def fork(key: str, new_key: str, at: datetime | int | None) -> int:
    """Start a new conversation NEWKEY as a copy of conversation KEY.

    No model is called; the fork is mirrored like any other conversation.
    """
    from threadledger.adapters.documents import fork_document

    with opened(sends=True) as ledger:
        ledger.fork(key, new_key, at)
        thing = fork_document(ledger, new_key)
        version, messages = thing["parent"]["version"], counted(thing["messages"], "message")
        message = f"{new_key} is a copy of {key} as of version {version}: {messages}"
        emit_one(thing, lambda console: prose(console, message))
    return Exit.DONE


@click.command()
@click.argument("key", type=KEY, required=False, shell_complete=complete_keys)
@click.option("--after", default="0", metavar="CURSOR", help="Only events after this cursor or position.")
@click.option("--type", "types", multiple=True, metavar="T", help="Only events of this type; can be repeated.")
@click.option("--actor", type=KEY, metavar="NAME", help="Only events that this actor caused.")
@click.option("--follow", is_flag=True, help="Keep printing new events; Ctrl-C stops.")
@common
def events(key: str | None, after: str, types: tuple[str, ...], actor: str | None, follow: bool) -> int:
    """Print the event log in commit order, of conversation KEY or of all conversations."""
    from threadledger.domain.conversation import events as known

    for name in types:
        if name not in known.EVENTS:
            raise click.BadParameter(
                f"there is no event type {name!r}: use one of {', '.join(known.EVENTS)}.", param_hint="--type"
            )
    with opened(reads=True) as ledger:
        if key is not None:
            ledger.state(key)
        found = ledger.events(after=after, types=types, key=key, follow=follow, checked=True)
        logged = (each.as_json() for each in found if actor is None or each.actor == actor)
        if follow:
            for each in logged:
                print_json(each)
        elif invocation().output == "table":
            rows = [
                each | {"at": clock(each["at"]), "actor": each["data"].pop("actor", None), "data": _brief(each["data"])}
                for each in logged
            ]
            emit_many(rows, ("position", "key", "version", "at", "type", "actor", "data"), empty="no events")
        else:
            emit_many(logged, ())
    return Exit.DONE


def _brief(data: dict[str, object]) -> str:
    text = json.dumps(
        {name: value for name, value in data.items() if value not in (None, [], {}, "")}, ensure_ascii=False
    )
    return text if len(text) <= 120 else text[:119] + "…"
