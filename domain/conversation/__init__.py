"""Define the conversation: its messages, its events (the storage format), its state and its decisions.

The modules `events` and `messages` are part of this face.
"""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .conversation import AT_THE_END, SUPERSEDED_TOO, TOO_LATE, ActiveRuns, Completion, Conversation, Place, RunPlan
    from .exchanges import (
        RUN_ENDING_CHARS_MIN,
        RUN_TOPICS,
        ExchangeRecord,
        Exchanges,
        FailureFilter,
        RunRecord,
        facts_of,
        fold_exchanges,
        moment_of,
        recorded_failure,
    )
    from .keys import CONVERSATION, IMPORTED, JOB, PROFILE, check_idempotency_key, key_of, stream_of
    from .parsing import parse_message, restore_message, text_message
    from .profiles import Profile, parse_profile
    from .state import STATE_SCHEMA, ConversationState, evolve

__all__ = [
    "AT_THE_END",
    "CONVERSATION",
    "IMPORTED",
    "JOB",
    "PROFILE",
    "RUN_ENDING_CHARS_MIN",
    "RUN_TOPICS",
    "STATE_SCHEMA",
    "SUPERSEDED_TOO",
    "TOO_LATE",
    "ActiveRuns",
    "Completion",
    "Conversation",
    "ConversationState",
    "ExchangeRecord",
    "Exchanges",
    "FailureFilter",
    "Place",
    "Profile",
    "RunPlan",
    "RunRecord",
    "check_idempotency_key",
    "evolve",
    "facts_of",
    "fold_exchanges",
    "key_of",
    "moment_of",
    "parse_message",
    "parse_profile",
    "recorded_failure",
    "restore_message",
    "stream_of",
    "text_message",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "conversation": "AT_THE_END SUPERSEDED_TOO TOO_LATE ActiveRuns Completion Conversation Place RunPlan",
            "exchanges": (
                "RUN_ENDING_CHARS_MIN RUN_TOPICS ExchangeRecord Exchanges FailureFilter RunRecord "
                "facts_of fold_exchanges moment_of recorded_failure"
            ),
            "keys": "CONVERSATION IMPORTED JOB PROFILE check_idempotency_key key_of stream_of",
            "parsing": "parse_message restore_message text_message",
            "profiles": "Profile parse_profile",
            "state": "STATE_SCHEMA ConversationState evolve",
        },
    )
