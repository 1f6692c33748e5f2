"""Compute memory, the messages that a model sees: as of a version, within a budget, and its differences."""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .diff import MemoryChange, MemoryDiff, diff_memories
    from .fold import MemoryFold, fold_memory
    from .memory import ALL, INSTRUCTING, MEMORY_TOPICS, RULE_2, Memory, MemorySource
    from .missing_files import (
        MISSING_AT,
        MISSING_FILES,
        THREADS,
        UPLOADS_GONE,
        add_missing,
        missing_files_in,
        unusable_files_in,
    )
    from .order import Backwards
    from .rendering import FUNCTION_NAME, original_name, response_items, shown_part, valid_arguments, valid_name
    from .rule_1 import message_tokens, text_tokens
    from .windows import ending_with_question, rule_in_copy, version_in_copy

__all__ = [
    "ALL",
    "FUNCTION_NAME",
    "INSTRUCTING",
    "MEMORY_TOPICS",
    "MISSING_AT",
    "MISSING_FILES",
    "RULE_2",
    "THREADS",
    "UPLOADS_GONE",
    "Backwards",
    "Memory",
    "MemoryChange",
    "MemoryDiff",
    "MemoryFold",
    "MemorySource",
    "add_missing",
    "diff_memories",
    "ending_with_question",
    "fold_memory",
    "message_tokens",
    "missing_files_in",
    "original_name",
    "response_items",
    "rule_in_copy",
    "shown_part",
    "text_tokens",
    "unusable_files_in",
    "valid_arguments",
    "valid_name",
    "version_in_copy",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "diff": "MemoryChange MemoryDiff diff_memories",
            "fold": "MemoryFold fold_memory",
            "memory": "ALL INSTRUCTING MEMORY_TOPICS RULE_2 Memory MemorySource",
            "missing_files": (
                "MISSING_AT MISSING_FILES THREADS UPLOADS_GONE add_missing missing_files_in unusable_files_in"
            ),
            "order": "Backwards",
            "rendering": "FUNCTION_NAME original_name response_items shown_part valid_arguments valid_name",
            "rule_1": "message_tokens text_tokens",
            "windows": "ending_with_question rule_in_copy version_in_copy",
        },
    )
