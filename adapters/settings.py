"""Read the settings: option, environment, `.env`, `threadledger.toml`, default; each wins over those after it.

Settings are frozen once read. Unknown keys in `.env` are ignored, unknown keys in `threadledger.toml` are refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from threadledger.domain import limits
from threadledger.domain.conversation import Profile, parse_profile
from threadledger.domain.errors import FileMissing, InvalidProfile, InvalidSettings

if TYPE_CHECKING:
    from .named_backends import ConfigFile, NamedBackend
    from .trust import Action

BACKENDS = ("assistants", "responses", "chat")
ENV_FILE = Path(".env")
CONFIG_FILE = Path("threadledger.toml")
DEFAULT_PROFILE = Path("profiles/john.toml")
DEFAULT_MODEL = "gpt-5.5"
"""Model used if neither OPENAI_MODEL nor the profile names one. Models retire: GET /models returns `shutdown_date`.
gpt-5.5 is the model in the openai SDK's own examples (3.54, November 2026)."""

DEADLINE_SECONDS_MAX = 86_400.0
"""Maximum deadline of an exchange, in seconds: one day."""


class Settings(BaseSettings):
    """Hold the settings of threadledger (see docs/settings.md)."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    db: str = Field("sqlite:///threadledger.db", validation_alias="THREADLEDGER_DB")
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(None, validation_alias="OPENAI_BASE_URL")
    openai_org_id: str | None = Field(None, validation_alias="OPENAI_ORG_ID")
    openai_project_id: str | None = Field(None, validation_alias="OPENAI_PROJECT_ID")
    azure_openai_endpoint: str | None = Field(None, validation_alias="AZURE_OPENAI_ENDPOINT")
    azure_openai_api_key: SecretStr | None = Field(None, validation_alias="AZURE_OPENAI_API_KEY")
    azure_openai_ad_token: SecretStr | None = Field(None, validation_alias="AZURE_OPENAI_AD_TOKEN")
    openai_api_version: str | None = Field(None, validation_alias="OPENAI_API_VERSION")
    backends: Annotated[tuple[str, ...], NoDecode] = Field(
        ("responses", "chat"), validation_alias="THREADLEDGER_BACKENDS"
    )
    config: Path | None = Field(None, validation_alias="THREADLEDGER_CONFIG")
    fallback: Literal["drop", "strict"] = Field("drop", validation_alias="THREADLEDGER_FALLBACK")
    stream_fallback: Literal["restart", "continue"] = Field("restart", validation_alias="THREADLEDGER_STREAM_FALLBACK")
    threads_backend: str | None = Field(None, validation_alias="THREADLEDGER_THREADS_BACKEND")
    use_assistants_api: bool | None = Field(None, validation_alias="USE_ASSISTANTS_API")
    openai_assistant_id: str | None = Field(None, validation_alias="OPENAI_ASSISTANT_ID")
    threads: Literal["conversations", "assistants", "none"] = Field(
        "conversations", validation_alias="THREADLEDGER_THREADS"
    )
    profile: Path | None = Field(None, validation_alias="THREADLEDGER_PROFILE")
    openai_model: str | None = Field(None, validation_alias="OPENAI_MODEL")
    fallback_model: str | None = Field(None, validation_alias="THREADLEDGER_FALLBACK_MODEL")
    retries: int = Field(limits.RETRIES_DEFAULT, ge=0, le=20, validation_alias="THREADLEDGER_RETRIES")
    timeout_seconds: float = Field(
        limits.BACKEND_TIMEOUT_SECONDS, gt=0, le=3600, validation_alias="THREADLEDGER_TIMEOUT_SECONDS"
    )
    deadline_seconds: float = Field(
        limits.EXCHANGE_DEADLINE_SECONDS,
        gt=0,
        le=DEADLINE_SECONDS_MAX,
        validation_alias="THREADLEDGER_DEADLINE_SECONDS",
    )
    while_running: Literal["reject", "queue", "interrupt"] = Field(
        "reject", validation_alias="THREADLEDGER_WHILE_RUNNING"
    )
    stateless: bool = Field(False, validation_alias="THREADLEDGER_STATELESS")
    background: bool = Field(False, validation_alias="THREADLEDGER_BACKGROUND")
    tools: str | None = Field(None, validation_alias="THREADLEDGER_TOOLS")
    memory_last: int | None = Field(None, ge=1, validation_alias="THREADLEDGER_MEMORY_LAST")
    memory_tokens: int | None = Field(None, ge=1, validation_alias="THREADLEDGER_MEMORY_TOKENS")
    log_format: Literal["text", "json"] = Field("text", validation_alias="THREADLEDGER_LOG_FORMAT")
    log_text: bool = Field(False, validation_alias="THREADLEDGER_LOG_TEXT")
    telemetry: bool = Field(False, validation_alias="THREADLEDGER_TELEMETRY")
    synchronous: Literal["FULL", "NORMAL"] = Field("FULL", validation_alias="THREADLEDGER_SYNCHRONOUS")

    _options: frozenset[str] = PrivateAttr(frozenset())
    """Names of the fields that were given as options."""
    _file: Any = PrivateAttr(None)
    """The `ConfigFile`, if there is one; its values are used for the fields in `_from_file`."""
    _from_file: frozenset[str] = PrivateAttr(frozenset())
    _dotenv: bytes | None = PrivateAttr(None)
    """The content of `.env`, read once: what is checked (`trust.py`) is what is used."""
    _trust: Any = PrivateAttr(None)
    """The `FolderTrust` of a command; None in an app, which runs the code of its folder anyway."""

    @field_validator("backends", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return tuple(name.strip() for name in given.split(",") if name.strip()) if isinstance(given, str) else given

    @field_validator("retries", "timeout_seconds", "deadline_seconds", "memory_last", "memory_tokens", mode="before")
    @classmethod
    def _refuse_boolean(cls, given: object) -> object:
        if isinstance(given, bool):
            raise ValueError("Input should be a number, not true or false")
        return given

    @field_validator("openai_api_key", "azure_openai_api_key", "azure_openai_ad_token", mode="before")
    @classmethod
    def _strip_key(cls, given: object) -> object:
        return given.strip() or None if isinstance(given, str) else given  # a file that holds a key ends with a newline

    @property
    def config_file(self) -> str | None:
        """Return the path of the configuration file that was read; None if there is none."""
        return str(self._file.path) if self._file is not None else None

    @property
    def named(self) -> Mapping[str, NamedBackend]:
        """Return the tables `[backends.NAME]` of `threadledger.toml`."""
        return self._file.backends if self._file is not None else {}

    def require_trust(self, action: Action) -> Mapping[Path, bytes]:
        """Return the contents of the code files that were checked; see `FolderTrust.require`."""
        return self._trust.require(action) if self._trust is not None else {}

    @property
    def depends_on_folder(self) -> bool:
        """Return whether a file of the working folder, or a name that may be found there, is part of the settings."""
        return self._dotenv is not None or self._file is not None or self.tools is not None

    def kind_of(self, backend: str) -> str:
        """Return the kind of a backend: a built-in name is its own kind."""
        return self.named[backend].kind if backend in self.named else backend

    @property
    def order(self) -> tuple[str, ...]:
        """Return the backends in the order tried, without duplicates, with `USE_ASSISTANTS_API` applied."""
        names = tuple(dict.fromkeys(self.backends))
        if self.use_assistants_api is None:
            return names
        others = tuple(name for name in names if name != "assistants")
        return ("assistants", *others) if self.use_assistants_api else others

    def load_profile(self) -> Profile:
        """Read the profile; return an empty one if no file is set and `profiles/john.toml` does not exist.

        Raises:
            FileMissing: the file cannot be read.
            InvalidProfile: the file is not a valid profile.
        """
        path = self.profile or (DEFAULT_PROFILE if DEFAULT_PROFILE.is_file() else None)
        if path is None:
            return Profile()
        import tomllib

        try:
            text = read_named_file(path).decode("utf-8-sig").replace("\r\n", "\n")
            return parse_profile(tomllib.loads(text), str(path))
        except OSError as error:
            raise FileMissing(
                f"the profile {path} cannot be read ({error.strerror}): correct THREADLEDGER_PROFILE"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidProfile(f"the profile {path} is not TOML ({error}): fix it, or name another file") from error

    def has_own_endpoint(self, backend: str) -> bool:
        """Return whether a backend is not reached at the provider of the settings with its key."""
        own = self.named.get(backend)
        return own is not None and (own.kind == "python" or own.base_url is not None or own.api_key_env is not None)

    @property
    def uses_provider(self) -> bool:
        """Return whether a backend of the chain, or the threads, need the provider of the settings."""
        needs_threads = self.threads != "none" and not self.has_own_endpoint(self.threads_backend or "")
        return needs_threads or not all(map(self.has_own_endpoint, self.order))

    def model_for(self, backend: str, profile: Profile) -> str:
        """Return the model that a backend uses; the fallback has its own setting."""
        named = self.named.get(backend)
        if named is not None and (own := named.model or named.function):
            return own
        first = self.openai_model or profile.model or DEFAULT_MODEL
        is_fallback = self.kind_of(backend) == "chat" and self.order[:1] != (backend,)
        return (self.fallback_model or first) if is_fallback else first


def load_settings(**options: Any) -> Settings:
    """Read the settings; `options` (by field name) win over all other sources; options set to None are ignored.

    Raises:
        InvalidSettings: a setting is unknown or invalid; the message names it and says what is expected.
    """
    unknown = options.keys() - Settings.model_fields.keys()
    if unknown:
        raise InvalidSettings(
            f"there is no setting {min(unknown)!r}: use one or more of {', '.join(Settings.model_fields)}"
        )
    file, in_file = None, dict[str, Any]()
    try:
        given = _one_provider({key: value for key, value in options.items() if value is not None})
        env_file, in_dotenv = _read_env_file()
        outside = {**in_dotenv, **{name.upper(): value for name, value in os.environ.items() if value}}
        path = _config_path(given, outside)
        if path is not None:
            file = _read_config(path)
            in_file = {key: each for key, each in file.settings.items() if not {key, _name(key)} & {*given, *outside}}
        values: dict[str, Any] = {key: outside[_name(key)] for key in Settings.model_fields if _name(key) in outside}
        settings = Settings(**{_name(key): value for key, value in (in_file | values | given).items()})
        settings._options, settings._file, settings._from_file = frozenset(given), file, frozenset(in_file)
        settings._dotenv = env_file
        if file is not None and not file.backends.keys().isdisjoint(BACKENDS):
            from .named_backends import with_settings_first

            settings._file = with_settings_first(file, settings, {*values, *given})
        _check_provider(settings)
        _check_backends(settings)
        return settings
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = first["loc"][0] if first["loc"] else "a setting"
        key = next((key for key in in_file if _name(key) == name), None)
        place = f"{file.path}: {key}" if file is not None and key is not None else name
        raise InvalidSettings(
            f"{place} cannot be used ({first['msg'].removeprefix('Value error, ')}): see .env.example"
        ) from None


def settings_alone(**options: Any) -> Settings:
    """Create settings from these values (by field name) and the defaults.

    The environment and `.env` are not read, and nothing is validated.
    """
    key = options.pop("openai_api_key", None)
    return Settings.model_construct(**options, openai_api_key=SecretStr(key) if key is not None else None)


def _read_env_file() -> tuple[bytes | None, Mapping[str, str]]:
    """Return the content of `.env`, if there is one, and its values that are not empty, by name in capitals.

    Raises:
        InvalidSettings: the file cannot be read, or is not UTF-8.
    """
    if not ENV_FILE.is_file():
        return None, {}
    try:
        raw = read_named_file(ENV_FILE)
        return raw, env_file_values(raw)
    except OSError as error:
        raise InvalidSettings(f"the file .env cannot be read ({error.strerror}): correct its permissions") from error
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"the file .env is not UTF-8 text ({error.reason}): save it as UTF-8") from None


def is_address(text: str) -> bool:
    """Return whether a text is an address that requests can be sent to."""
    try:
        parts = urlsplit(text)
        (parts.hostname or "").encode("idna")
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        return is_whole and text.isprintable() and " " not in text
    except ValueError:  # a port or a host name that cannot be
        return False


def read_named_file(path: Path) -> bytes:
    """Return the content of a file that settings name. A folder of somebody else may name a device, which has no end.

    Raises:
        OSError: the file cannot be read, is larger than `SETTINGS_FILE_BYTES_MAX`, or is a device or a pipe.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")
    if status.st_size > limits.SETTINGS_FILE_BYTES_MAX:
        raise OSError(errno.EFBIG, f"it is larger than {limits.SETTINGS_FILE_BYTES_MAX:,} bytes")
    return path.read_bytes()


def env_file_values(raw: bytes, *, interpolate: bool = True) -> dict[str, str]:
    """Return the values in the content of an `.env` that are not empty, by name in capitals."""
    from dotenv import dotenv_values

    found = dotenv_values(stream=StringIO(raw.decode("utf-8")), interpolate=interpolate)
    return {name.upper(): value for name, value in found.items() if value}


def _config_path(given: Mapping[str, Any], outside: Mapping[str, str]) -> Path | None:
    """Return the configuration file; None if none is named and `threadledger.toml` does not exist."""
    named = given.get("config") or outside.get(_name("config"))
    return Path(named) if named else CONFIG_FILE if CONFIG_FILE.is_file() else None


def _read_config(path: Path) -> ConfigFile:
    from .named_backends import read_config

    return read_config(path, {key: "SecretStr" in str(each.annotation) for key, each in Settings.model_fields.items()})


def _check_backends(settings: Settings) -> None:
    """Raise if the chain names a backend that does not exist, or if threads cannot live where the settings say."""
    there_are = tuple(dict.fromkeys((*BACKENDS, *settings.named)))
    unknown = [name for name in settings.backends if name not in there_are]
    if unknown:
        place = f"{settings.config_file}: chain" if "backends" in settings._from_file else _name("backends")
        raise InvalidSettings(
            f"{place} cannot be used (there is no backend {unknown[0]!r}: use one or more of {', '.join(there_are)}): "
            "see .env.example"
        )
    home = settings.threads_backend
    if home is not None and (home not in there_are or settings.kind_of(home) not in {"responses", "assistants"}):
        raise InvalidSettings(
            f"{_name('threads_backend')} names {home!r}, which is no backend with threads: name one of kind responses or "
            "assistants in threadledger.toml, or unset it"
        )


def _one_provider(given: dict[str, Any]) -> dict[str, Any]:
    """Let an option that names one provider override an environment that names a provider of the other kind."""
    kinds = ("openai_base_url", "azure_openai_endpoint")
    named = [kind for kind in kinds if kind in given]
    return dict.fromkeys(kinds) | given if len(named) == 1 else given


def _check_provider(settings: Settings) -> None:
    """Raise if the settings name two providers: memory is sent to one, and the wrong guess would send it to the other."""
    if settings.azure_openai_endpoint is None:
        return
    if settings.openai_base_url is not None:
        raise InvalidSettings(
            "AZURE_OPENAI_ENDPOINT and OPENAI_BASE_URL name two providers: unset the one that you do not use"
        )
    if settings.openai_api_version is None:
        raise InvalidSettings(
            "AZURE_OPENAI_ENDPOINT is set and OPENAI_API_VERSION is not: set it to the version of the Azure API to use"
        )


def _name(key: str) -> str:
    """Return the environment name of a field."""
    return str(Settings.model_fields[key].validation_alias)
