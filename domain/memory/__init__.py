"""Compute memory, the messages that a model sees: as of a version, within a budget, and its differences."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .diff import MemoryChange, MemoryDiff, diff_memories
    from .memory import INSTRUCTING, MEMORY_TOPICS, Memory, MemoryFold, fold_memory
    from .order import Backwards
    from .rendering import FUNCTION_NAME, original_name, response_items, valid_arguments, valid_name
    from .windows import message_tokens, text_tokens

__all__ = [
    "FUNCTION_NAME",
    "INSTRUCTING",
    "MEMORY_TOPICS",
    "Backwards",
    "Memory",
    "MemoryChange",
    "MemoryDiff",
    "MemoryFold",
    "diff_memories",
    "fold_memory",
    "message_tokens",
    "original_name",
    "response_items",
    "text_tokens",
    "valid_arguments",
    "valid_name",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "diff": "MemoryChange MemoryDiff diff_memories",
            "memory": "INSTRUCTING MEMORY_TOPICS Memory MemoryFold fold_memory",
            "order": "Backwards",
            "rendering": "FUNCTION_NAME original_name response_items valid_arguments valid_name",
            "windows": "message_tokens text_tokens",
        },
    )
