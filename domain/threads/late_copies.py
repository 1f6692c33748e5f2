"""Find surplus copies in a thread.

An unconfirmed write (one without a response) may arrive after the thread was read back and the write was sent again.
The thread then contains one of our messages twice. Copies that are provably ours may be deleted; others are only
reported.

There are two proofs. An entry with a message id of an unconfirmed write is ours by identity. In a thread without
message ids, a block that equals an unconfirmed write (in order, without a gap, and after everything that was there when
it was sent) is ours by content and position, together with the model output that follows it. A copy is surplus only
beyond what the journal needs: messages with equal text are different messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..alignment import common_prefix, differing
from ..limits import DOUBTS_SEARCHED_MAX, LANDINGS_TRIED_MAX
from .doubts import Doubt
from .thread import ThreadItem, digest


def surplus(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]) -> list[ThreadItem]:
    """Return the entries beyond the journal that are provably our late copies, in the thread's order.

    Of several copies, those whose deletion keeps the journal's order are chosen; if that is equal, the later ones. Each
    unconfirmed write explains at most one copy. If it would have to explain more, content proves nothing and no entry
    is returned.

    Args:
        journal: the items that the thread should hold, as its mirror renders them.
        thread: the entries that were read back.
        doubts: the unconfirmed writes; content is compared only for the last `DOUBTS_SEARCHED_MAX` of them.
    """
    taken = {index for landing in _landings(journal, thread, doubts) for index in landing.taken}
    return [thread[index] for index in sorted(taken)]


def open_doubts(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]) -> list[Doubt]:
    """Return the unconfirmed writes of which this thread contains no surplus copy.

    After the surplus is deleted, keep only these: a write that has arrived cannot explain another copy.
    """
    answered = {landing.doubt for landing in _landings(journal, thread, doubts)}
    return [doubt for number, doubt in enumerate(doubts) if number not in answered]


Key = tuple[str, str]
"""Identity of an entry: the message id that it carries (else empty), and its digest."""


@dataclass(frozen=True, slots=True)
class _Landing:
    """Represent one way to explain entries of a thread as a late copy.

    `taken` is the range of entries to delete. `doubt` is the index of the unconfirmed write that explains them, or None
    if the entry's message id is the proof. The `kept` entries before the range match the journal and remain.
    """

    taken: range
    doubt: int | None = None
    kept: int = 0

    @property
    def start(self) -> int:
        return self.taken.start - self.kept


def _landings(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]) -> list[_Landing]:
    found = _explained(journal, thread, doubts) if doubts else []
    taken = {index for landing in found for index in landing.taken}
    left = [item for index, item in enumerate(thread) if index not in taken]
    # If the same unconfirmed writes explain still more entries, another writer wrote the same content, and it is
    # unknown which copy is ours.
    return [] if found and _explained(journal, left, doubts) else found


def _explained(journal: Sequence[ThreadItem], thread: Sequence[ThreadItem], doubts: Sequence[Doubt]) -> list[_Landing]:
    keys = [(item.message_id, digest([item])) for item in thread]
    borne = {key for key in keys if key[0]}
    places = [(item.message_id, digest([item])) for item in journal]
    wanted = [place if place in borne else ("", place[1]) for place in places]
    in_order = _in_order(wanted, keys)
    # If entries carry our ids, an entry without an id is not ours, whatever its content.
    landings = _by_identity(keys, doubts)
    if not borne:
        since = _since(journal, wanted, keys, doubts)
        landings = _by_content(thread, keys, doubts, since, complete=in_order == wanted)
    ways: dict[int, list[_Landing]] = {}
    for landing in landings:
        ways.setdefault(landing.start, []).append(landing)
    return _spared(_best(in_order, keys, ways), wanted, keys, doubts) if ways else []


def _by_identity(keys: Sequence[Key], doubts: Sequence[Doubt]) -> Iterator[_Landing]:
    ours = {(item.message_id, item.digest) for doubt in doubts for item in doubt.items}
    yield from (_Landing(range(index, index + 1)) for index, key in enumerate(keys) if key[0] and key in ours)


def _since(
    journal: Sequence[ThreadItem], wanted: Sequence[Key], keys: Sequence[Key], doubts: Sequence[Doubt]
) -> list[int]:
    """Return, for each unconfirmed write, the first place in the thread where it may have arrived.

    Writes follow the journal's order, so a write is placed after everything that precedes it in the journal.
    """
    met = [0]
    for index, key in enumerate(keys, 1):
        if len(met) <= len(wanted) and key == wanted[len(met) - 1]:
            met.append(index)
    first: dict[str, int] = {}
    for place, item in enumerate(journal):
        first.setdefault(item.message_id, place)
    begun = (min((first[it.message_id] for it in doubt.items if it.message_id in first), default=0) for doubt in doubts)
    return [met[min(place, len(met) - 1)] for place in begun]


def _by_content(
    thread: Sequence[ThreadItem], keys: Sequence[Key], doubts: Sequence[Doubt], since: Sequence[int], *, complete: bool
) -> Iterator[_Landing]:
    """Yield the blocks that equal an unconfirmed write. `complete`: the thread contains the whole journal, in order."""
    for number, doubt in list(enumerate(doubts))[-DOUBTS_SEARCHED_MAX:]:
        sent = [("", item.digest) for item in doubt.items]
        for start in range(since[number], len(keys) if sent else 0):
            equal = common_prefix(sent, keys[start : start + len(sent)])
            end = start + equal
            if equal == len(sent):
                outputs = _outputs_from(thread, end) if doubt.asked else 0
                for more in range(outputs + 1):
                    yield _Landing(range(start, end + more), number)
                    if more and complete:
                        yield _Landing(range(end, end + more), number, kept=equal)
            for begun in range(1, 1 if doubt.whole else min(equal + 1, len(sent))):
                yield _Landing(range(start, start + begun), number)


def _outputs_from(thread: Sequence[ThreadItem], start: int) -> int:
    """Return how many entries from `start` on may be a model's output."""
    end = start
    while end < len(thread) and (thread[end].kind != "message" or thread[end].name == "assistant"):
        end += 1
    return end - start


class _Path(NamedTuple):
    """Represent one path through a thread up to some entry."""

    matched: int = 0
    """Number of the journal's entries that were matched, in order."""
    used: frozenset[int] = frozenset()
    taken: int = 0
    late: int = 0
    """Sum of the positions of the taken entries: of equal paths, the one that takes later copies is better."""
    landings: tuple[_Landing, ...] = ()


def _best(wanted: Sequence[Key], keys: Sequence[Key], ways: Mapping[int, Sequence[_Landing]]) -> Sequence[_Landing]:
    """Return the late copies (most entries; of equals, the latest) whose deletion leaves `wanted` in order.

    This walks over the thread and keeps the best path of each kind at each entry. A path from which the rest of the
    journal can no longer be matched is dropped, so that few remain. If there are more than `LANDINGS_TRIED_MAX`,
    nothing is taken.
    """
    rest = _met_from(wanted, keys)
    reached: dict[int, dict[tuple[int, frozenset[int], int], _Path]] = {0: {(0, frozenset(), 0): _Path()}}

    def reach(index: int, path: _Path) -> None:
        if path.matched + rest[index] >= len(wanted):
            kind = (path.matched, path.used, path.taken)
            known = reached.setdefault(index, {}).get(kind)
            if known is None or known.late < path.late:
                reached[index][kind] = path

    tried = 0
    for index in range(len(keys)):
        paths = reached.pop(index)
        tried += len(paths) * (1 + len(ways.get(index, ()))) - 1
        if tried > LANDINGS_TRIED_MAX:
            return ()
        for path in paths.values():
            met = path.matched < len(wanted) and wanted[path.matched] == keys[index]
            reach(index + 1, path._replace(matched=path.matched + met))
            for landing in ways.get(index, ()):
                landed = _landed(landing, path, wanted, keys)
                if landed is not None:
                    reach(landing.taken.stop, landed)
    return max(reached[len(keys)].values(), key=lambda path: (path.taken, path.late)).landings


def _landed(landing: _Landing, path: _Path, wanted: Sequence[Key], keys: Sequence[Key]) -> _Path | None:
    """Return the path after a late copy, or None if the path cannot contain this copy."""
    if landing.doubt in path.used:
        return None
    matched = path.matched + landing.kept
    if list(wanted[path.matched : matched]) != list(keys[landing.start : landing.taken.start]):
        return None
    if landing.kept and matched == len(wanted):
        return None  # no journal entry follows: this may be the answer itself, which is not journaled yet
    used = path.used if landing.doubt is None else path.used | {landing.doubt}
    late = path.late + sum(landing.taken)
    return _Path(matched, used, path.taken + len(landing.taken), late, (*path.landings, landing))


def _spared(
    landings: Sequence[_Landing], wanted: Sequence[Key], keys: Sequence[Key], doubts: Sequence[Doubt]
) -> list[_Landing]:
    """Drop explanations that would delete an entry that the journal needs elsewhere, or the last copy of a message.

    If thread and journal differ in more than late copies, an entry that is out of order is still needed.
    """
    spare = Counter(keys)
    spare.subtract(wanted)
    doubted = {item for doubt in doubts for item in doubt.items}
    ours = {(item.message_id, item.digest) for item in doubted} | {("", item.digest) for item in doubted}
    spare.subtract(ours.difference(wanted))
    found = []
    for landing in reversed(landings):
        taken = Counter(keys[index] for index in landing.taken)
        if all(spare[key] >= count for key, count in taken.items()):
            spare.subtract(taken)
            found.append(landing)
    return found[::-1]


def _in_order(wanted: Sequence[Key], keys: Sequence[Key]) -> Sequence[Key]:
    """Return the journal's entries that the thread holds in order: all, unless some are missing or have moved."""
    if _met_from(wanted, keys)[0] == len(wanted):
        return wanted
    missed = {place for start, end, _, _ in differing(wanted, keys) for place in range(start, end)}
    return [key for place, key in enumerate(wanted) if place not in missed]


def _met_from(wanted: Sequence[Key], keys: Sequence[Key]) -> list[int]:
    """Return, for each place in the thread, how many of the last wanted entries are matched from there on, in order."""
    met = [0] * (len(keys) + 1)
    for index in range(len(keys) - 1, -1, -1):
        left = len(wanted) - met[index + 1]
        met[index] = met[index + 1] + (left > 0 and wanted[left - 1] == keys[index])
    return met
