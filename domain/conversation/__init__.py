"""Define the conversation: its messages, its events (the storage format), its state and its decisions.

The modules `events`, `messages`, `parts`, `attachments`, `items`, `native`, `session_items`, `tool_secrets`, `description`,
`listing`, `decisions`, `tenants` and `assistants` are public too.
"""

from typing import TYPE_CHECKING

from ..faces import lazy_face

if TYPE_CHECKING:
    from .conversation import SUPERSEDED_TOO, TOO_LATE, ActiveRuns, Completion, Conversation, Place, RunPlan
    from .exchanges import (
        RUN_TOPICS,
        ExchangeRecord,
        Exchanges,
        FailureFilter,
        RunRecord,
        fold_exchanges,
        recorded_failure,
    )
    from .keys import CONVERSATION, IMPORTED, PROFILE, check_idempotency_key, key_of, stream_of
    from .parsing import parse_message, text_message
    from .profile_files import parse_profile
    from .profiles import Profile
    from .state import STATE_SCHEMA, ConversationState, OpenExchange, OpenRun, ThreadLink, evolve

__all__ = [
    "CONVERSATION",
    "IMPORTED",
    "PROFILE",
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
    "OpenExchange",
    "OpenRun",
    "Place",
    "Profile",
    "RunPlan",
    "RunRecord",
    "ThreadLink",
    "check_idempotency_key",
    "evolve",
    "fold_exchanges",
    "key_of",
    "parse_message",
    "parse_profile",
    "recorded_failure",
    "stream_of",
    "text_message",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_face(
        __name__,
        {
            "conversation": "SUPERSEDED_TOO TOO_LATE ActiveRuns Completion Conversation Place RunPlan",
            "exchanges": (
                "RUN_TOPICS ExchangeRecord Exchanges FailureFilter RunRecord fold_exchanges recorded_failure"
            ),
            "keys": "CONVERSATION IMPORTED PROFILE check_idempotency_key key_of stream_of",
            "parsing": "parse_message text_message",
            "profile_files": "parse_profile",
            "profiles": "Profile",
            "state": "STATE_SCHEMA ConversationState OpenExchange OpenRun ThreadLink evolve",
        },
    )
