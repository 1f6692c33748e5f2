"""Implement `threadledger message`, which works on single messages, and `threadledger branch`, which selects a branch."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from .ask import exchange_options, keywords_of, print_exchange
from .main import IN_KEY, KEY, TEXT, Exit, common, error_message, opened
from .output import clock, emit_line, emit_many, note, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from threadledger.domain.ledger import Ledger
    from threadledger.domain.memory.tree import Branch

MESSAGE = click.argument("message_id", type=KEY, metavar="MESSAGE")
REASON = click.option("--reason", type=KEY, default="", metavar="TEXT", help="Why; stored with the event.")


@click.group()
@common
def message() -> None:
    """Edit, regenerate, retract, pin or rate a message.

    MESSAGE is the id of a message, or the end of its id, as `threadledger show KEY --tree` prints it.
    """


@message.command()
@IN_KEY
@MESSAGE
@click.argument("text", type=TEXT)
@click.option("--idempotency-key", metavar="K", help="Makes retries safe: the same key again changes nothing.")
@common
def edit(key: str, message_id: str, text: str, idempotency_key: str | None) -> int:
    """Journal TEXT in the place of a message, as a branch of its own; no model is called.

    Pass - as TEXT to read standard input. The original is kept as a branch.
    """
    with opened(sends=True) as ledger:
        found = _id(ledger, key, message_id)
        edited = ledger.conversation(key).edit(found, text, idempotency_key=idempotency_key)
        answer = f"threadledger message regenerate {shlex.quote(key)}"
        told = f"journaled as version {edited.version} of {key}; answer it with: {answer}"
        emit_line({"key": key} | edited.as_json(), told)
    return Exit.DONE


@message.command()
@IN_KEY
@click.argument("message_id", type=KEY, metavar="[MESSAGE]", required=False)
@click.option(
    "--stream", is_flag=True, help="Print the text as it arrives. With -o jsonl: one part per line, then the answer."
)
@click.option("--idempotency-key", metavar="K", help="Makes retries safe: the same key again returns the first answer.")
@exchange_options
@common
def regenerate(key: str, message_id: str | None, stream: bool, idempotency_key: str | None, **chosen: Any) -> int:
    """Run the question of a message again, by default the last one, and print the new answer.

    It takes the place of the old answer, which remains a variant. A question without an answer is answered.
    """
    with opened(sends=True, profile=chosen["profile"]) as ledger:
        chat, options = ledger.conversation(key), keywords_of(ledger, chosen)
        found = _id(ledger, key, message_id) if message_id is not None else None
        if stream:
            parts = chat.stream_regenerate(found, idempotency_key=idempotency_key, **options)
            return print_exchange(parts, "message regenerate")
        again = lambda: chat.regenerate(found, idempotency_key=idempotency_key, **options)  # noqa: E731 - it is called once
        return print_exchange(again, "message regenerate")


@message.command()
@IN_KEY
@MESSAGE
@REASON
@common
def retract(key: str, message_id: str, reason: str) -> int:
    """Remove a message from memory, on every branch; it is kept in the log."""
    with opened(sends=True) as ledger:
        before, found = ledger.state(key).version, _id(ledger, key, message_id)
        ledger.conversation(key).retract(found, reason)
        version = ledger.state(key).version
        told = f"{short(found)} is no longer in the memory of {key}"
        _say(key, found, version, told if version > before else f"{told}: nothing was changed")
    return Exit.DONE


@message.command()
@IN_KEY
@MESSAGE
@click.option("--unpin", is_flag=True, help="No longer show it in every window.")
@common
def pin(key: str, message_id: str, unpin: bool) -> int:
    """Show a message in every window of memory, however long the conversation becomes.

    Tool calls and their results cannot be pinned: pin the question or the answer.
    """
    with opened() as ledger:
        found = _id(ledger, key, message_id)
        ledger.conversation(key).pin(found, not unpin)
        told = f"{short(found)} is {'no longer pinned' if unpin else 'pinned'} in {key}"
        _say(key, found, ledger.state(key).version, told)
    return Exit.DONE


@message.command()
@IN_KEY
@MESSAGE
@click.argument("score", type=float)
@click.option("--comment", type=KEY, default="", metavar="TEXT", help="What a person says about it.")
@common
def rate(key: str, message_id: str, score: float, comment: str) -> int:
    """Record what a person thinks of a message: SCORE is a number on your own scale, such as 1 and -1.

    Write -- before a negative one: threadledger message rate KEY MESSAGE -- -1
    """
    with opened() as ledger:
        found = _id(ledger, key, message_id)
        ledger.conversation(key).rate(found, score, comment)
        _say(key, found, ledger.state(key).version, f"{short(found)} of {key} is rated {score:g}")
    return Exit.DONE


@click.command()
@IN_KEY
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Leave the newest N messages as they are.")
@click.option("--model", type=KEY, metavar="M", help="Use this model instead of the configured one.")
@click.option("--backend", type=KEY, metavar="NAME", help="Call only this backend; there is no fallback.")
@common
def compact(key: str, keep_last: int | None, model: str | None, backend: str | None) -> int:
    """Put a summary in place of the older messages of conversation KEY: a model is called to write it.

    The originals are kept in the log and in search; show KEY --full shows them.
    """
    from threadledger.domain.errors import AllBackendsFailed

    with opened(sends=True) as ledger:
        chosen: dict[str, Any] = {"model": model, "backend": backend}
        options = {name: value for name, value in chosen.items() if value is not None}
        try:
            summary = ledger.conversation(key).compact(keep_last, **options)
        except AllBackendsFailed as error:
            note(f"threadledger compact: {error_message(error)}")
            return Exit.FAILED
        told = f"{key} has nothing to sum up: its newest messages are kept"
        if summary is not None:
            told = f"the memory of {key} begins with a summary of {len(summary.message.text)} characters"
        thing = {"key": key, "version": ledger.state(key).version}
        emit_line(thing | {"summary": summary.as_json() if summary is not None else None}, told)
    return Exit.DONE


@click.group()
@common
def branch() -> None:
    """List the branches of a conversation, or select one."""


@branch.command("list")
@IN_KEY
@common
def list_(key: str) -> int:
    """List the ends of conversation KEY, oldest first."""
    with opened(reads=True) as ledger:
        ledger.state(key)
        rows = list(_rows(ledger.conversation(key).branches()))
        columns = ("selected", "message", "messages", "parts_at", "at", "says")
        emit_many(rows, columns, empty=f"{key} has no messages")
    return Exit.DONE


def _rows(branches: list[Branch]) -> Iterator[dict[str, Any]]:
    from .main import invocation

    for each in branches:
        row = each.as_json()
        if invocation().output != "table":
            yield row
            continue
        parts_at = "" if each.selected else short(each.forked_from) or "(start)"
        yield {
            "selected": "*" if each.selected else "",
            "message": short(each.message_id),
            "messages": each.messages,
            "parts_at": parts_at,
            "at": clock(row["at"]),
            "says": f"{each.end.role_name}: {_brief(each.says)}",
        }


@branch.command()
@IN_KEY
@MESSAGE
@click.option("--here", is_flag=True, help="End memory with this message, and not with the newest one after it.")
@REASON
@common
def select(key: str, message_id: str, here: bool, reason: str) -> int:
    """Select the branch of a message: memory ends with the newest message that continues it."""
    from threadledger.domain.memory.tree import said

    with opened(sends=True) as ledger:
        end = ledger.conversation(key).select_branch(_id(ledger, key, message_id), reason, here=here)
        told = f"the memory of {key} ends with {short(end.message_id)}: {_brief(said(end))}"
        emit_line({"key": key, "version": ledger.state(key).version, "end": end.as_json()}, told)
    return Exit.DONE


BRIEF_CHARS = 60
"""Number of characters of a message's text in one line about it."""


def _brief(says: str) -> str:
    return " ".join(says.split())[:BRIEF_CHARS]


def _id(ledger: Ledger, key: str, message_id: str) -> str:
    """Return the id of the message that a user names by its id or the end of it."""
    return ledger.journal.places(key).find(message_id).message_id


def _say(key: str, message_id: str, version: int, told: str) -> None:
    emit_line({"key": key, "message_id": message_id, "version": version}, told)
