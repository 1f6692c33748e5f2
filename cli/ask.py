"""Implement `threadledger ask`, which runs one exchange."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .exits import Exit, told_of
from .invocation import KEY, TEXT, common, complete_keys, invocation, opened
from .output import emit_one, note, printable, short
from .streaming import streamed

if TYPE_CHECKING:
    from threadledger.domain import AllBackendsFailed, Answer


@click.command()
@click.argument("key", type=KEY, shell_complete=complete_keys)
@click.argument("text", type=TEXT)
@click.option(
    "--stream", is_flag=True, help="Print the text as it arrives. With -o jsonl: one part per line, then the answer."
)
@click.option("--idempotency-key", metavar="K", help="Makes retries safe: the same key again returns the first answer.")
@common
def ask(key: str, text: str, stream: bool, idempotency_key: str | None) -> int:
    """Ask a question in conversation KEY and print the answer.

    The question is journaled before a backend is called, and the answer before it is printed. Pass - as TEXT to read
    standard input.
    """
    from threadledger.domain import AllBackendsFailed

    with opened(create=True) as ledger:
        chat = ledger.conversation(key)
        try:
            if stream:
                answer = streamed(chat, text, idempotency_key)
            else:
                answer = chat.ask(text, idempotency_key=idempotency_key)
                show_answer(answer)
        except AllBackendsFailed as nobody:
            if invocation().output != "table":
                emit_one(_unanswered(nobody), lambda console: None)
            note(f"threadledger ask: {told_of(nobody)}")
            return Exit.FAILED
        if stream and invocation().output != "table":
            told = {"type": answer.type} if invocation().output == "jsonl" else {}
            emit_one(_as_json(answer) | told, lambda console: None)
    return Exit.DONE


def show_answer(answer: Answer) -> None:
    """Print the answer to stdout, and the runs that failed before it to stderr."""
    for failure in answer.failures:
        note(f"run {short(failure.run_id)} on {failure.backend} failed: {failure.cause.value} ({failure.summary()})")
    if answer.fallback:
        note(f"answered by fallback: {answer.backend} ({answer.model})")
    emit_one(
        _as_json(answer), lambda console: click.echo(printable(answer.text) if sys.stdout.isatty() else answer.text)
    )


def _as_json(answer: Answer) -> dict[str, Any]:
    return {
        "key": answer.key,
        "exchange_id": answer.exchange_id,
        "answer": answer.text,
        "backend": answer.backend,
        "model": answer.model,
        "run_id": answer.run_id,
        "fallback": answer.fallback,
        "failures": [failure.as_json() for failure in answer.failures],
        "version": answer.version,
        "usage": answer.usage.as_json(),
    }


def _unanswered(nobody: AllBackendsFailed) -> dict[str, Any]:
    nothing = dict.fromkeys(("answer", "backend", "model", "run_id", "version", "usage"))
    failures = [failure.as_json() for failure in nobody.failures]
    return {"key": nobody.key, "exchange_id": nobody.exchange_id, **nothing, "fallback": False, "failures": failures}
