"""Make the JSON documents of the commands and other faces, and the words in which people read what they hold.

A document has plain values alone: texts, numbers, booleans, None, lists and dicts. A face only chooses and shows it.
"""

from typing import TYPE_CHECKING

from threadledger.domain.faces import lazy_face

if TYPE_CHECKING:
    from .answers import answer_document, failed_answer_document, part_document
    from .conversations import (
        conversation_document,
        event_in_words,
        fork_document,
        part_in_words,
        shown_conversation_document,
        threads_document,
        tree_document,
    )
    from .errors import error_sentence
    from .runs import memory_document, run_document, timeline_document
    from .words import clock, counted, short

__all__ = [
    "answer_document",
    "clock",
    "conversation_document",
    "counted",
    "error_sentence",
    "event_in_words",
    "failed_answer_document",
    "fork_document",
    "memory_document",
    "part_document",
    "part_in_words",
    "run_document",
    "short",
    "shown_conversation_document",
    "threads_document",
    "timeline_document",
    "tree_document",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "answers": "answer_document failed_answer_document part_document",
            "conversations": (
                "conversation_document event_in_words fork_document part_in_words shown_conversation_document "
                "threads_document tree_document"
            ),
            "errors": "error_sentence",
            "runs": "memory_document run_document timeline_document",
            "words": "clock counted short",
        },
    )
