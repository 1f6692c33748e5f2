"""Compute memory, the messages that a model sees: as of a version, within a budget, and its differences."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .diff import MemoryChange, MemoryDiff, diff_memories
    from .memory import MEMORY_TOPICS, Memory, MemoryFold, fold_memory, message_tokens, response_items
    from .order import Backwards

__all__ = [
    "MEMORY_TOPICS",
    "Backwards",
    "Memory",
    "MemoryChange",
    "MemoryDiff",
    "MemoryFold",
    "diff_memories",
    "fold_memory",
    "message_tokens",
    "response_items",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "diff": "MemoryChange MemoryDiff diff_memories",
            "memory": "MEMORY_TOPICS Memory MemoryFold fold_memory message_tokens response_items",
            "order": "Backwards",
        },
    )
