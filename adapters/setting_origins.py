"""Find where each setting comes from: an option, the environment, `.env`, `threadledger.toml` or its default.

Named secrets of tools come from the environment or `.env` only.
"""

from __future__ import annotations

import os
from pathlib import Path

from threadledger.domain.conversation.tool_secrets import VARIABLE

from .settings import ENV_FILE, Settings, env_file_values

FOLDERS_FILE = str(ENV_FILE)


def origins(settings: Settings) -> dict[str, str]:
    """Return the origin of each setting, by its environment name: option, environment, .env or default."""
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    in_env_file = env_file_values(settings._dotenv or b"")
    found = {}
    for key, field in Settings.fields.items():
        name = field.name
        place = "environment" if name in in_environment else FOLDERS_FILE if name in in_env_file else "default"
        place = str(settings.config_file) if key in settings._from_file else place
        found[name] = "option" if key in settings._options else place
    return found


def folders_own(settings: Settings) -> set[str]:
    """Return the fields that only files of the working folder set: `.env`, and the `threadledger.toml` that it has."""
    places = origins(settings)
    files = {FOLDERS_FILE, *([str(settings.config_file)] if has_own_config(settings) else [])}
    return {key for key, field in Settings.fields.items() if places[field.name] in files}


def has_own_config(settings: Settings) -> bool:
    """Return whether the configuration file was chosen by the working folder, not by an option or the environment."""
    chosen = origins(settings)["THREADLEDGER_CONFIG"]
    return settings.config_file is not None and chosen in {FOLDERS_FILE, "default"}


def find_secret(settings: Settings, name: str) -> str | None:
    """Return the value of a named secret of a tool: a variable of the environment, else of `.env`; None if it is not set.

    Raises:
        FolderNotTrusted: a command would send a secret of the environment where an untrusted folder decides.
    """
    from .named_backends import key_of

    value = key_of(f"{VARIABLE}{name}", settings)
    if value is not None:
        settings.require_trust("secrets", name)
    return value


def inside(folder: Path, path: Path) -> bool:
    """Return whether a file is in a folder, with symbolic links followed."""
    return path.resolve().is_relative_to(folder.resolve())


def inserts_variables(settings: Settings) -> bool:
    """Return whether a value of `.env` contains another variable, such as one of the environment (`${NAME}`)."""
    raw = settings._dotenv or b""
    return b"${" in raw and env_file_values(raw) != env_file_values(raw, interpolate=False)
