"""Apply the events of a conversation with branches or pins to its state, and those that end and restart a deleted one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..canonical import EMPTY_PATH
from . import events as e
from .state import ConversationState, extended_by, updated


def _aside(state: ConversationState, event: e.MessageJournaled) -> None:
    parent, known = event.parent_version or 0, state.aside_path
    state.fork_version = min(parent, parent if state.fork_version is None else state.fork_version)
    state.asides = (state.asides or 0) + 1
    path = EMPTY_PATH if parent == 0 else None
    if parent == state.end_version:
        path = state.path_hash
    elif known is not None and known[0] == parent:
        path = known[1]
    path = extended_by(path, event) if path is not None else None
    state.aside_path = [event.originator_version, path] if path is not None else None


def _selected(state: ConversationState, event: e.BranchSelected) -> None:
    state.asides = None
    if event.message_version == state.end_version:
        return
    known = state.aside_path
    state.path_hash = known[1] if known is not None and known[0] == event.message_version else None
    state.end_version = event.message_version
    state.selected_version = state.cut_version = state.path_version = event.originator_version
    fork = event.message_version if state.fork_version is None else state.fork_version
    state.fork_version = min(fork, event.message_version)
    state.aside_path = None
    for exchanges in (state.open_exchanges, state.abandoned):
        for exchange_id, exchange in exchanges.items():
            is_back = exchange.tail_version == event.message_version
            exchanges[exchange_id] = updated(exchange, left=not is_back)


def _compacted(state: ConversationState, event: e.MemoryCompacted) -> None:
    state.cut_version = state.path_version = event.originator_version
    state.mark_version = state.compacted_version = event.originator_version
    state.path_hash = state.aside_path = None


def _pinned(state: ConversationState, event: e.MessagePinned) -> None:
    state.mark_version = event.originator_version
    if state.compacted_version is not None:  # a pinned message of the covered part is shown
        state.cut_version = state.path_version = event.originator_version
        state.path_hash = state.aside_path = None
    pins = dict(state.pins or {})
    pins.pop(event.message_id, None)
    if event.pinned:
        pins[event.message_id] = event.message_version
        if state.fork_version is None:  # from now on, windows are read with the pinned messages
            state.fork_version = event.message_version
    state.pins = pins or None


def _deleted(state: ConversationState, event: e.ConversationDeleted) -> None:
    """Forget everything but the place in the log. Memory is read along a path from now on, which ends at the deletion."""
    version, generation = event.originator_version, (state.generation or 0) + 1
    kept = {"key": state.key, "version": state.version, "last_at": state.last_at}
    state.__dict__ = vars(ConversationState()) | kept
    state.deleted, state.generation, state.deleted_version = True, generation, version
    state.described = {}
    state.path_hash, state.has_parts, state.end_version = EMPTY_PATH, False, 0
    state.cut_version = state.path_version = state.mark_version = state.fork_version = version


def _restarted(state: ConversationState, event: e.ConversationStarted) -> None:
    state.deleted = None
    state.described = {"metadata": event.originator_version} if event.metadata else {}


BRANCH_CHANGES: dict[type[e.Event], Callable[[ConversationState, Any], None]] = {
    e.MessageJournaled: _aside,
    e.BranchSelected: _selected,
    e.MemoryCompacted: _compacted,
    e.MessagePinned: _pinned,
    e.ConversationDeleted: _deleted,
    e.ConversationStarted: _restarted,
}
