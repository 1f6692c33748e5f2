"""Implement `threadledger blobs`, which lists attachments, writes one to a file, and removes those that nothing refers to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .main import KEY, Exit, LazyGroup, MomentParameter, common, invocation, opened
from .output import clock, counted, emit_many, note, span
from .replay.plans import apply_options, confirm
from .terminal import binary_output

if TYPE_CHECKING:
    from threadledger.domain.journal.blobs import BlobStore, StoredBlob
    from threadledger.domain.journal.uploads import AttachmentCopy
    from threadledger.domain.ledger import Ledger


@click.group(
    cls=LazyGroup,
    places={
        "list": (".blobs", "list_", "List attachments, with their sizes and references."),
        "extract": (".blobs", "extract", "Write the bytes of one attachment to a file."),
        "prune": (".blobs", "prune", "Remove attachments that no event refers to."),
    },
)
@common
def blobs() -> None:
    """List, extract and prune attachments: the bytes of images, files and recordings, each stored once."""


@click.command("list")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most N attachments.")
@click.option("--after", type=KEY, default="", metavar="ADDRESS", help="Continue after this address.")
@click.option("--uploads", is_flag=True, help="List the copies of attachments that providers have instead.")
@common
def list_(limit: int | None, after: str, uploads: bool) -> int:
    """List attachments, sorted by address: size in bytes, number of events that refer to it, and age.

    A page ends with --limit; the next one begins --after its last address. An incomplete attachment is being written, or
    its writer was stopped.
    """
    from threadledger.domain.ids import now

    with opened(reads=True) as ledger:
        if uploads:
            copies = (each.as_json() for each in ledger.uploads() if each.blob > after)
            facts = ("blob", "endpoint", "file_id", "purpose", "filename", "size", "at")
            emit_many(islice(copies, limit), facts, empty="no uploads", spare=("purpose", "at"))
            return Exit.DONE
        moment = now()
        rows = (_as_row(each, moment) for each in ledger.journal.blobs.listed(after, limit))
        columns = ("address", "size", "references", "age", "state")
        emit_many(rows, columns, empty="no attachments", spare=("state", "age"))
    return Exit.DONE


def _as_row(blob: StoredBlob, moment: datetime) -> dict[str, Any]:
    seconds = max((moment - blob.at).total_seconds(), 0.0)
    if invocation().output != "table":
        return blob.as_json() | {"age_seconds": round(seconds)}
    return {
        "address": blob.address,
        "size": blob.size,
        "references": blob.references,
        "age": span(seconds),
        "state": "" if blob.complete else "incomplete",
        "last_added": clock(blob.as_json()["at"]),
    }


@click.command()
@click.argument("address", type=KEY)
@click.option(
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this new file instead of stdout.",
)
@common
def extract(address: str, file: Path | None) -> int:
    """Write the bytes of the attachment ADDRESS to a file or to stdout.

    They are compared with their hash: if they were changed, FILE is not written, and stdout does not get the last of them
    (exit 4). No file is replaced, and nothing is written to a terminal.
    """
    from threadledger.adapters import private_bytes
    from threadledger.domain.errors import Conflict, FileMissing

    stdout = binary_output() if file is None else None
    if file is None and stdout is None:
        context = click.get_current_context()
        raise click.UsageError("the bytes could control the terminal: pass --output FILE, or redirect stdout", context)
    with opened(reads=True) as ledger:
        chunks = ledger.journal.blobs.read(address)
        try:
            with nullcontext(stdout) if file is None else private_bytes(file) as stream:
                size = sum(map(stream.write, chunks)) if stream is not None else 0
        except FileExistsError:
            raise Conflict(f"{file} exists already: choose a new file, or move this one away") from None
        except OSError as error:
            if file is None:
                raise
            raise FileMissing(f"{file} cannot be written ({error.strerror}): name another file") from error
    if file is not None:
        note(f"{counted(size, 'byte')} written to {file}")
    return Exit.DONE


COLUMNS = ("kind", "address", "size", "age", "state", "reason")


@click.command()
@click.option(
    "--uploads",
    type=MomentParameter(),
    metavar="T",
    help="Also delete copies uploaded before T (ISO 8601, or 24h, 7d).",
)
@apply_options
def prune(apply: bool, yes: bool, uploads: datetime | None) -> int:
    """Remove attachments that no event refers to and that were last added more than a day ago.

    Without --apply, only list them. An attachment is stored before the event that refers to it: younger ones are kept, and
    so is one to which an event refers by the time it is removed. Copies of theirs that were uploaded to a provider are deleted
    there; with --uploads, also those of other attachments: one that is needed again is uploaded again.
    """
    from threadledger.domain.ids import now
    from threadledger.domain.journal.blobs import UNREFERENCED_SECONDS_MIN

    before = now() - timedelta(seconds=UNREFERENCED_SECONDS_MIN)
    with opened(reads=not apply, primary=True, sends=apply) as ledger:
        store = ledger.journal.blobs
        copies = ledger.removable_uploads(before, uploads)
        sizes = [each.size for each in store.prunable(before)]
        planned = {"attachment": sizes, "upload": [each.size for each in copies]}
        what = " and ".join(
            f"{counted(len(found), kind)} of {counted(sum(found), 'byte')}" for kind, found in planned.items() if found
        )
        if apply:
            confirm(len(sizes) + len(copies), f"remove {what}", yes)
        rows = _pruned(store, before) if apply else _planned(store, before)
        failed = _show(chain(_uploads(ledger, copies, apply), rows))
    if not apply and what:
        note(f"{what}: nothing was removed; remove them with --apply")
    return Exit.SOME_FAILED if failed else Exit.DONE


def _uploads(ledger: Ledger, copies: Iterable[AttachmentCopy], apply: bool) -> Iterator[dict[str, Any]]:
    """Delete copies at providers, before the attachments that they are copies of, and yield a row for each."""
    from threadledger.domain.errors import InvalidInput, ProviderRefused

    for each in copies:
        state, reason = "removed" if apply else "planned", ""
        if apply:
            try:
                ledger.remove_upload(each)
            except (ProviderRefused, InvalidInput) as error:
                state, reason = "failed", str(error)
        facts = {"address": each.blob, "size": each.size, "endpoint": each.endpoint, "file_id": each.file_id}
        yield {"kind": "upload", **facts, "state": state, "reason": reason}


def _planned(store: BlobStore, before: datetime) -> Iterator[dict[str, Any]]:
    for each in store.prunable(before):
        yield _item(each, before, "planned")


def _pruned(store: BlobStore, before: datetime) -> Iterator[dict[str, Any]]:
    from threadledger.domain.errors import StoreUnavailable

    for each in store.prunable(before):
        try:
            removed = store.remove(each.address, before)
        except StoreUnavailable as error:
            yield _item(each, before, "failed", str(error))
            continue
        reason = "" if removed else "it was added again, or an event refers to it by now"
        yield _item(each, before, "removed" if removed else "kept", reason)


def _item(blob: StoredBlob, before: datetime, state: str, reason: str = "") -> dict[str, Any]:
    from threadledger.domain.journal.blobs import UNREFERENCED_SECONDS_MIN

    row = _as_row(blob, before + timedelta(seconds=UNREFERENCED_SECONDS_MIN))
    return {"kind": "blob", **row, "state": state, "reason": reason}


def _show(rows: Iterable[dict[str, Any]]) -> int:
    """Print the rows as they arrive, and return how many failed."""
    failed = 0

    def counting() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for row in rows:
            failed += row["state"] == "failed"
            yield row

    emit_many(counting(), COLUMNS, empty="nothing to prune")
    return failed
