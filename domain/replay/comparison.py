"""Compare a rerun with the run that it repeats: text, model, tokens and duration, side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from ..conversation import RunRecord, parse_message, recorded_failure
from ..conversation import events as e
from ..conversation.messages import Role, Usage, restore_message
from ..journal import Journal
from .rerun import usage_of
from .rerun_request import RerunItem

WORDS_COMPARED_MAX = 4_000
"""Maximum number of words on one side that are compared word by word; a longer text is compared as a whole."""


@dataclass(frozen=True)
class ComparedRun:
    """Describe one side of a comparison."""

    run_id: str
    backend: str
    model: str
    text: str | None
    """The answer; of a failed run, the text that it streamed before, or None."""
    failure: str | None
    """Cause and facts of a failed run; None if it answered."""
    usage: Usage
    duration_seconds: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of a side; docs/replay.md lists its keys."""
        return vars(self) | {"usage": self.usage.as_json()}


@dataclass(frozen=True)
class RerunComparison:
    """Hold both sides, and the difference of their texts."""

    original: ComparedRun
    rerun: ComparedRun

    @property
    def same_text(self) -> bool:
        """Return whether both sides have the same text."""
        return self.original.text == self.rerun.text

    def difference(self) -> list[tuple[str, str]]:
        """Return the pieces of both texts in order, each with `same`, `removed` or `added`.

        The pieces that are not `added`, joined, are the original text; those that are not `removed` are the new text.
        """
        before, after = (re.findall(r"\s*\S+|\s+$", side.text or "") for side in (self.original, self.rerun))
        if max(len(before), len(after)) > WORDS_COMPARED_MAX and not self.same_text:
            return [("removed", "".join(before)), ("added", "".join(after))]
        found: list[tuple[str, str]] = []
        for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if kind == "equal":
                found.append(("same", "".join(before[i:j])))
            else:
                found += [("removed", "".join(before[i:j])), ("added", "".join(after[k:m]))]
        return [(kind, text) for kind, text in found if text]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of a comparison; docs/replay.md lists its keys."""
        return {
            "original": self.original.as_json(),
            "rerun": self.rerun.as_json(),
            "same_text": self.same_text,
            "difference": [{"kind": kind, "text": text} for kind, text in self.difference()],
        }


def compare_rerun(journal: Journal, item: RerunItem) -> RerunComparison | None:
    """Compare a rerun that has answered with the answer that it repeats, or with the failed run if there was none."""
    if item.new_run_id is None:
        return None
    here = journal.exchanges(item.key)
    there = journal.exchanges(item.fork) if item.fork is not None else here
    new = there.runs[item.new_run_id]
    answered_by = here.by_id[item.exchange_id].answered_by
    earlier = new.supersedes_run_id or (answered_by if answered_by != new.run_id else None) or item.run_id
    return RerunComparison(_side(journal, here.runs[earlier]), _side(journal, new))


def _side(journal: Journal, run: RunRecord) -> ComparedRun:
    failure = run.failure
    reported = None
    if failure is not None:
        recorded = recorded_failure(run, journal.exchanges(run.key).exchange_of(run))
        reported = f"{recorded.cause.value}: {recorded.summary()}"
    return ComparedRun(
        run_id=run.run_id,
        backend=run.backend,
        model=(run.completed.model if run.completed is not None else None) or run.model,
        text=failure.partial_text if failure is not None else _answer_of(journal, run),
        failure=reported,
        usage=usage_of(run),
        duration_seconds=run.duration_seconds,
    )


def _answer_of(journal: Journal, run: RunRecord) -> str | None:
    """Return the last text that a run answered; None if it has not answered."""
    if run.shadow:
        said = run.completed.shadow_messages if run.completed is not None else []
        return parse_message(said[-1]).text if said else None
    answers = [
        restore_message(event).text
        for event in journal.history(run.key, after=run.version)
        if isinstance(event, e.MessageJournaled) and event.run_id == run.run_id and event.role == Role.ASSISTANT.value
    ]
    return answers[-1] if answers else None
