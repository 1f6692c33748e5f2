"""Read the table `[serve]` of `threadledger.toml`: routes of models, and what happens to hosted tools."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadledger.domain.errors import InvalidSettings

HOSTED_TOOLS = ("refuse", "drop")
SERVE_KEYS = ("hosted_tools", "models")


@dataclass(frozen=True)
class ServeSettings:
    """Hold the settings of the served API."""

    hosted_tools: str = "refuse"
    """What happens to tools that a provider would run (`code_interpreter`, …): `refuse` the request, or `drop` them."""
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What answers a model's name: backends in their order, each `BACKEND` or `BACKEND:MODEL`."""

    def require_backends(self, known: Collection[str]) -> None:
        """Raise `InvalidSettings` if a route leads to a backend that does not exist."""
        for name, targets in self.models.items():
            for backend in (target_of(each)[0] for each in targets):
                if backend not in known:
                    raise InvalidSettings(
                        f'[serve.models] "{name}" names the backend {backend!r}, which does not exist: use one of '
                        f"{', '.join(known)}, or add [backends.{backend}]"
                    )

    def shown(self) -> dict[str, str]:
        """Return the settings as they are shown to people, by name."""
        routes = {f"serve.models.{name}": ",".join(targets) for name, targets in self.models.items()}
        return {"serve.hosted_tools": self.hosted_tools} | routes


def target_of(text: str) -> tuple[str, str | None]:
    """Return the backend and the model of a target; None is the backend's own model.

    The first colon separates them: the name of a model may have colons, that of a backend has none.
    """
    backend, _, model = text.partition(":")
    return backend, model or None


def parse_serve(given: object, path: Path) -> ServeSettings:
    """Return the settings of a table `[serve]`.

    Raises:
        InvalidSettings: the table is not valid; the message names the file, the table and the key.
    """
    if not isinstance(given, Mapping):
        raise InvalidSettings(f'{path}: serve is not a table: write [serve] and below it hosted_tools = "refuse"')
    for key in given:
        if key not in SERVE_KEYS:
            raise InvalidSettings(
                f"{path}: [serve] has an unknown key {key!r}: use one or more of {', '.join(SERVE_KEYS)}"
            )
    hosted_tools = given.get("hosted_tools", HOSTED_TOOLS[0])
    if hosted_tools not in HOSTED_TOOLS:
        raise InvalidSettings(f"{path}: [serve]: hosted_tools cannot be used: give one of {', '.join(HOSTED_TOOLS)}")
    models = given.get("models", {})
    if not isinstance(models, Mapping):
        raise InvalidSettings(
            f'{path}: serve.models is not a table: write [serve.models] and below it "NAME" = "BACKEND"'
        )
    return ServeSettings(hosted_tools, {name: _targets(name, value, path) for name, value in models.items()})


def _targets(name: str, given: Any, path: Path) -> tuple[str, ...]:
    targets = [given] if isinstance(given, str) else given
    if not name.strip() or not isinstance(targets, list) or not targets or not all(map(_is_target, targets)):
        raise InvalidSettings(
            f"{path}: [serve.models] {name!r} cannot be used: give a name and what answers it, as BACKEND or BACKEND:MODEL, or "
            "a list of these with at least one"
        )
    return tuple(targets)


def _is_target(given: object) -> bool:
    if not isinstance(given, str) or given != given.strip():
        return False
    backend, colon, model = given.partition(":")
    return bool(backend) and (not colon or bool(model))
