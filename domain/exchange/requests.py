"""Record what was sent with a question beyond the defaults (`ExchangeRequested`), and read it for a rerun."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..conversation.events import ExchangeRequested, MessageJournaled, payload_of
from ..errors import InvalidInput
from .options import ExchangeOptions

if TYPE_CHECKING:
    from ..conversation import Profile
    from ..journal import Journal
    from .conversing import Conversing
    from .services import Services


def sent(journal: Journal, options: ExchangeOptions, services: Services) -> dict[str, Any]:
    """Return the fields of the request of a question with these options, which made these services; {} for the defaults.

    The profile is stored if it is new.
    """
    given: dict[str, Any] = {}
    if options.changes_profile:
        given["profile_hash"] = journal.define_profile(services.profile)
    facts = {"model": options.wanted_model, "backend": options.backend, "timeout_seconds": options.timeout_seconds}
    given |= {name: value for name, value in facts.items() if value is not None}
    return given | ({"metadata": dict(services.metadata)} if services.metadata else {})


@dataclass(frozen=True)
class SentOptions:
    """Hold the options that were recorded with a question."""

    event: ExchangeRequested
    profile: Profile | None
    """Profile that was sent; None if it was the configured one, or if the ledger does not have it."""

    @classmethod
    def of(cls, journal: Journal, key: str, exchange_id: str, upto: int | None = None) -> SentOptions | None:
        """Return the options of an exchange; None if it had only the defaults.

        The events are read backwards to its question; `upto` is a version after that, such as that of its first run.
        """
        for event in journal.newest(key, upto):
            if isinstance(event, ExchangeRequested) and event.exchange_id == exchange_id:
                return cls(event, journal.profile(event.profile_hash))
            if isinstance(event, MessageJournaled) and _is_question(event, exchange_id):
                return None
        return None

    def services_of(self, services: Services, given: Mapping[str, Any]) -> Services:
        """Return the services with these options, and with the `given` ones in their place.

        Raises:
            InvalidInput: see `options`, or an option is not valid any more.
        """
        options = self.options(services, given)
        if self.event.surface is None:
            return options.services_of(services)
        from .served_options import of_surface

        return of_surface(self.event, options, services)

    def options(self, services: Services, given: Mapping[str, Any]) -> ExchangeOptions:
        """Return these options, and the `given` ones in their place; another profile brings its own model.

        Raises:
            InvalidInput: the ledger does not have the profile.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        event, kept = self.event, dict[str, Any]()
        if "profile" not in chosen:
            kept["model"] = event.model
            if self.profile is not None:  # what it says of the app's functions is no part of its hash
                own = services.profile
                profile = replace(self.profile, read_only=own.read_only, approval=own.approval)
                kept |= {"profile": profile, "keeps_model": True}
            elif event.profile_hash is not None:
                raise InvalidInput(
                    f"the profile {event.profile_hash} of exchange {event.exchange_id} is not in this ledger: give another one"
                )
        kept |= {"backend": event.backend, "timeout_seconds": event.timeout_seconds, "metadata": event.metadata or None}
        return ExchangeOptions(**kept | chosen)

    def copied(self) -> dict[str, Any]:
        """Return the fields of the event, for the same request of an exchange in another conversation."""
        own = {"exchange_id", "actor", "question_message_id", "question_version"}
        return {name: value for name, value in payload_of(self.event).items() if name not in own}


def _is_question(event: MessageJournaled, exchange_id: str) -> bool:
    return event.exchange_id == exchange_id and event.role == "user" and event.run_id is None


def as_requested(chat: Conversing, exchange_id: str) -> Conversing:
    """Return a conversation's operations with the recorded options of an exchange, and with those of the call in their place.

    Raises:
        InvalidInput: an option is not valid any more.
    """
    recorded = SentOptions.of(chat.journal, chat.key, exchange_id)
    if recorded is None:
        return chat
    again = copy(chat)
    again.options = recorded.options(chat.base, chat.given)
    again.services = recorded.services_of(chat.base, chat.given)
    return again
