"""Check the key, the models and the assistant at the provider, for `doctor --online`.

The checks write nothing, call no model and record no runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .settings import Checked

if TYPE_CHECKING:
    from datetime import date

    from threadledger.domain.conversation import Profile
    from threadledger.domain.errors import ProviderRefused

    from ..openai import ProviderLook
    from ..settings import Settings

RETIRES_SOON_DAYS = 60
"""Days before a model's shutdown from which on a finding is reported."""

MODEL_SETTING = (
    "set OPENAI_MODEL (or THREADLEDGER_FALLBACK_MODEL, or the profile's model) to one that GET /models lists"
)


def examined_online(settings: Settings) -> Iterator[Checked]:
    """Run all online checks in order; a provider that cannot be reached is a finding and ends them."""
    from threadledger.domain.errors import ProviderRefused

    from ..openai import ProviderLook
    from ..wiring import client_of

    settings.require_trust("provider")
    client = client_of(settings)
    if not settings.uses_provider:
        yield Checked("provider", "the provider was not called: no backend uses it")
        return
    if not client.has_credentials:
        yield Checked("provider", "the provider was not called: no key is set")
        return
    look = ProviderLook(client)
    try:
        try:
            models = look.models()
        except ProviderRefused as refused:
            yield _refused("provider", "GET /models", refused)
            return
        on_azure = settings.azure_openai_endpoint is not None
        yield Checked("provider", f"{client.endpoint} accepts the key and lists {len(models):,} models")
        profile = _profile(settings)
        if profile is None:
            return  # the profile check reports that it cannot be read
        yield from check_models(settings, profile, look, models, on_azure)
        here = [name for name in settings.order if not settings.has_own_endpoint(name)]
        if "assistants" in here or (settings.threads == "assistants" and settings.threads_backend is None):
            yield from check_assistant(settings, profile, look, models)
    finally:
        look.close()


def check_models(
    settings: Settings, profile: Profile, look: ProviderLook, models: dict[str, date | None], on_azure: bool
) -> Iterator[Checked]:
    """Check that the model of each backend is available and will not shut down soon.

    On Azure a model is named by its deployment, and the API does not list deployments.
    """
    wanted: dict[str, list[str]] = {}
    for backend in settings.order:
        if settings.has_own_endpoint(backend):
            continue  # another provider has another list
        if backend != "assistants" or settings.openai_assistant_id is None:
            wanted.setdefault(settings.model_for(backend, profile), []).append(backend)
    for model, backends in wanted.items():
        if on_azure and model not in models:
            yield Checked("model", f"{model} is the name of a deployment: only calling it can show whether it exists")
        else:
            yield _model(model, f"for {', '.join(backends)}", look, models)


def check_assistant(
    settings: Settings, profile: Profile, look: ProviderLook, models: dict[str, date | None]
) -> Iterator[Checked]:
    """Check the Assistants API and the assistant that is pinned or was created from the profile."""
    from threadledger.domain.conversation import Profile
    from threadledger.domain.errors import ProviderRefused

    pinned = settings.openai_assistant_id
    model = settings.model_for("assistants", profile)
    try:
        look.assistants_api()
    except ProviderRefused as refused:
        yield _refused("assistant", "GET /assistants", refused)
        return
    if "assistants" not in settings.order:
        yield Checked("assistant", "the Assistants API is available; no assistant is used")
        return
    try:
        seen = look.assistant(pinned) if pinned else look.assistant_made_from(profile, model)
    except ProviderRefused as refused:
        yield _refused("assistant", f"assistant {pinned}" if pinned else "GET /assistants", refused)
        return
    if seen is None:
        yield Checked(
            "assistant", f"no assistant was created from the profile {profile.name!r} yet: the first run creates it"
        )
        return
    where = "at the provider, or unset OPENAI_ASSISTANT_ID to have one created from the profile"
    fix = f"fix it {where}" if pinned else "fix THREADLEDGER_PROFILE: a new assistant is then created from it"
    found = [Checked("assistant", f"{seen.assistant_id}: {problem}", fix) for problem in seen.problems()]
    different = seen.differences(profile, model) if profile != Profile() or not pinned else []
    if different:
        says = f"{seen.assistant_id} differs from the profile {profile.name!r} in: {', '.join(different)}"
        made = (
            f"make them match {where}"
            if pinned
            else f"fix it at the provider, or delete {seen.assistant_id}: the next run creates it again"
        )
        found.append(Checked("assistant", says, made))
    if pinned:
        checked = _model(seen.model, f"of {seen.assistant_id}", look, models)
        found += [checked] if checked.mend is not None else []
    yield from found
    if not found:
        yield Checked("assistant", f"{seen.assistant_id} ({seen.name or 'unnamed'}, {seen.model}) is well defined")


def _model(model: str, what_for: str, look: ProviderLook, models: dict[str, date | None]) -> Checked:
    """Check whether one model is available, and until when."""
    from threadledger.domain.errors import ProviderRefused
    from threadledger.domain.ids import now

    there, until = True, models.get(model)
    if model not in models:
        try:
            there, until = look.model(model)
        except ProviderRefused as refused:
            return _refused("model", f"model {model}", refused)
    if not there:
        return Checked("model", f"{model} ({what_for}) does not exist or is not available to this key", MODEL_SETTING)
    if until is None:
        return Checked("model", f"{model} ({what_for}) is available; no shutdown is announced")
    days = (until - now().date()).days
    if days < 0:
        return Checked(
            "model", f"{model} ({what_for}) was scheduled to shut down on {until.isoformat()}", MODEL_SETTING
        )
    message = f"{model} ({what_for}) shuts down on {until.isoformat()}, in {days} days"
    return Checked("model", message, MODEL_SETTING if days <= RETIRES_SOON_DAYS else None)


def _refused(check: str, asked: str, refused: ProviderRefused) -> Checked:
    """Return a refusal as a finding with its cause and advice."""
    from threadledger.domain.failures import advise, diagnose

    cause = diagnose(refused.failure)
    return Checked(check, f"{asked}: {cause.value} ({refused.failure.summary()})", advise(cause, refused.failure.code))


def _profile(settings: Settings) -> Profile | None:
    from threadledger.domain.errors import InvalidInput, NotFound

    try:
        return settings.load_profile()
    except (InvalidInput, NotFound):
        return None
