"""Check the settings for `doctor`: find missing, contradictory and no longer supported values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ..settings import Settings

ASSISTANTS_SHUT_DOWN = "2026-08-26"
"""Date on which OpenAI and Azure OpenAI shut down their Assistants API (developers.openai.com/api/docs/assistants/migration,
learn.microsoft.com/azure/foundry/how-to/navigate-from-classic; read in November 2026)."""

OPENAI_HOSTS = ("api.openai.com", "openai.azure.com", "cognitiveservices.azure.com")
"""Hosts of OpenAI's own API; regions and resources are subdomains. Other servers may still support the Assistants API."""


@dataclass(frozen=True)
class Checked:
    """Hold the result of one check; a result with a fix is a finding."""

    check: str
    message: str
    mend: str | None = None

    @property
    def state(self) -> str:
        """Return `ok` or `finding`."""
        return "ok" if self.mend is None else "finding"

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `doctor` prints."""
        return {"check": self.check, "state": self.state, "message": self.message, "mend": self.mend}


def check_address(settings: Settings) -> Iterator[Checked]:
    """Check that the provider's address is a valid HTTP address."""
    from ..wiring import client_of

    name = "AZURE_OPENAI_ENDPOINT" if settings.azure_openai_endpoint is not None else "OPENAI_BASE_URL"
    address = _address(settings)
    if address is None:
        yield Checked(
            "address", f"{name} is not a valid HTTP address", f"set {name} to an address like https://host/v1"
        )
    else:
        given = settings.azure_openai_endpoint or settings.openai_base_url or ""
        instead = " (the user and password in it are sent instead of the key)" if "@" in urlsplit(given).netloc else ""
        yield Checked("address", f"{client_of(settings).endpoint}{instead}")


def check_key(settings: Settings) -> Iterator[Checked]:
    """Check that a key is set and has a plausible form. The key is never shown."""
    from ..wiring import client_of

    on_azure = settings.azure_openai_endpoint is not None
    name = "AZURE_OPENAI_API_KEY" if on_azure else "OPENAI_API_KEY"
    key = settings.azure_openai_api_key if on_azure else settings.openai_api_key
    if not settings.uses_provider:
        yield Checked("key", "no backend uses the provider of the settings")
    elif not client_of(settings).has_credentials:
        yield Checked(
            "key",
            f"{name} is not set: messages are journaled, but the provider cannot be called and no thread is mirrored",
            f"set {name} in .env or in the environment",
        )
    elif key is not None and not _can_be_a_key(key.get_secret_value()):
        yield Checked(
            "key",
            f"{name} contains a space, a quotation mark, a line break or a non-ASCII character, which no key has",
            f"set {name} to the key and nothing else",
        )
    else:
        yield Checked("key", "a key is set")


def check_backends(settings: Settings) -> Iterator[Checked]:
    """Check that at least one backend is configured and that each of them can still answer."""
    order = settings.order
    if not order:
        yield Checked(
            "backends",
            "THREADLEDGER_BACKENDS names no backend except assistants, which USE_ASSISTANTS_API=false removes: every question "
            "fails",
            "set THREADLEDGER_BACKENDS=responses,chat",
        )
        return
    shut_down = "assistants" in order and not settings.has_own_endpoint("assistants") and _is_openai(settings)
    unused_assistant = settings.openai_assistant_id is not None and "assistants" not in order
    if shut_down:
        why = (
            "USE_ASSISTANTS_API is true" if settings.use_assistants_api else "THREADLEDGER_BACKENDS contains assistants"
        )
        yield Checked(
            "backends",
            f"{why}, but OpenAI shut down its Assistants API on {ASSISTANTS_SHUT_DOWN}: every run there fails",
            "set USE_ASSISTANTS_API=false, or set OPENAI_BASE_URL to a server that still supports it",
        )
    if unused_assistant:
        yield Checked(
            "backends",
            "OPENAI_ASSISTANT_ID is set, but assistants is not among the backends: the assistant is never called",
            "unset OPENAI_ASSISTANT_ID, or add assistants to THREADLEDGER_BACKENDS",
        )
    if not shut_down and not unused_assistant:
        yield Checked("backends", f"tried in this order: {', '.join(order)}")


def check_named_backends(settings: Settings) -> Iterator[Checked]:
    """Check that each backend of `threadledger.toml` has its key, and that a function is defined; nothing is imported."""
    from ..named_backends import problem_of_backend

    for name, backend in settings.named.items():
        problem = problem_of_backend(backend, settings)
        used = "" if name in settings.order else "; it is not in the chain"
        if problem is not None:
            yield Checked("backends", f"{name}: {problem[0]}{used}", problem[1])
        else:
            where = backend.function or backend.base_url or "the provider of the settings"
            yield Checked("backends", f"{name} is a backend of kind {backend.kind} at {where}{used}")


def check_threads(settings: Settings) -> Iterator[Checked]:
    """Check that the kind of thread that memory is mirrored to still exists."""
    if settings.threads == "assistants" and settings.threads_backend is None and _is_openai(settings):
        yield Checked(
            "threads",
            f"THREADLEDGER_THREADS is assistants, but OpenAI shut down its threads on {ASSISTANTS_SHUT_DOWN}: "
            "memory is not mirrored",
            "set THREADLEDGER_THREADS=conversations, then: threadledger replay rebuild --all --to conversations",
        )
    else:
        where = "not mirrored" if settings.threads == "none" else f"mirrored to {settings.threads}"
        yield Checked("threads", f"memory is {where}")


def check_time(settings: Settings) -> Iterator[Checked]:
    """Check that one attempt fits into the deadline of an exchange."""
    attempt, exchange = settings.timeout_seconds, settings.deadline_seconds
    if exchange < attempt:
        yield Checked(
            "time",
            f"one attempt may take {attempt:g} seconds, a whole exchange only {exchange:g}: "
            "the first attempt can use up the time of all others",
            "raise THREADLEDGER_DEADLINE_SECONDS, or lower THREADLEDGER_TIMEOUT_SECONDS",
        )
    else:
        yield Checked("time", f"{attempt:g} seconds per attempt, {exchange:g} per exchange")


TRUST = "read the files that it names, then: threadledger trust"


def check_trust(settings: Settings) -> Iterator[Checked]:
    """Check that the folder is trusted if a command would run its code, or send secrets or text to a host that it names."""
    from ..trust import FolderTrust

    trust = FolderTrust(settings)
    for need in trust.needs() if trust.is_needed else ():
        yield Checked("trust", f"{trust.described()}, and {need.reason}: the commands refuse that", TRUST)
    if not trust.needs():
        yield Checked("trust", "nothing in the folder needs trust")
    elif not trust.is_needed:
        yield Checked("trust", trust.described())


def check_attachments(settings: Settings) -> Iterator[Checked]:
    """Check that the place of attachments can be used, if it is not the database; it is not contacted."""
    from ..blob_files import problem_of_blobs
    from ..trust import FolderTrust

    if settings.blobs is None:
        return
    trust = FolderTrust(settings)
    if trust.state != "trusted" and trust.needs("blobs"):
        return  # another check reports it
    place, problem, fix = problem_of_blobs(settings.blobs)
    yield Checked("attachments", problem or f"their bytes are kept at {place}", fix)


def check_budgets(settings: Settings) -> Iterator[Checked]:
    """Check that the prices that budgets need are installed."""
    from ..prices import prices_from

    given = {
        "THREADLEDGER_MAX_COST_PER_CONVERSATION": settings.max_cost_per_conversation,
        "THREADLEDGER_MAX_COST_PER_OWNER_DAY": settings.max_cost_per_owner_day,
    }
    found = [name for name, dollars in given.items() if dollars is not None]
    names, several = " and ".join(found), len(found) > 1
    if found and prices_from() is None:
        need, limit = ("need", "they limit") if several else ("needs", "it limits")
        message = f"{names} {need} prices, which are not installed: every run that {limit} is refused"
        unset = "the budgets" if several else "the budget"
        yield Checked("budgets", message, f"install them with: pip install 'threadledger[prices]', or unset {unset}")
    elif found:
        yield Checked("budgets", f"{names} {'are' if several else 'is'} set; prices are from {prices_from()}")


SETTINGS_CHECKS = {
    "trust": check_trust,
    "address": check_address,
    "key": check_key,
    "backends": check_backends,
    "named backends": check_named_backends,
    "threads": check_threads,
    "attachments": check_attachments,
    "time": check_time,
    "budgets": check_budgets,
}


def _can_be_a_key(key: str) -> bool:
    return key.isascii() and key.isprintable() and not set(key) & set(" \"'")


def _is_openai(settings: Settings) -> bool:
    host = _address(settings) or ""
    return any(host == own or host.endswith(f".{own}") for own in OPENAI_HOSTS)


def _address(settings: Settings) -> str | None:
    """Return the provider's host, or None if the address has no host or is not an HTTP address."""
    from ..wiring import client_of

    try:
        parts = urlsplit(client_of(settings).endpoint)
        return parts.hostname if parts.scheme in {"http", "https"} else None
    except ValueError:
        return None
