"""Read the settings: an option wins over the environment, the environment over `.env`, and `.env` over the default.

Settings are frozen once read. Unknown keys in `.env` are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from threadledger.domain import limits
from threadledger.domain.conversation import Profile, parse_profile
from threadledger.domain.errors import FileMissing, InvalidProfile, InvalidSettings

BACKENDS = ("assistants", "responses", "chat")
DEFAULT_PROFILE = Path("profiles/john.toml")
DEFAULT_MODEL = "gpt-5.5"
"""Model used if neither OPENAI_MODEL nor the profile names one. Models retire: GET /models returns `shutdown_date`.
gpt-5.5 is the model in the openai SDK's own examples (3.54, November 2026)."""

DEADLINE_SECONDS_MAX = 86_400.0
"""Maximum deadline of an exchange, in seconds: one day."""


class Settings(BaseSettings):
    """Hold the settings of threadledger (see docs/settings.md)."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
    )

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

    @field_validator("backends", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        names = tuple(name.strip() for name in given.split(",") if name.strip()) if isinstance(given, str) else given
        if isinstance(names, (tuple, list)) and (unknown := [name for name in names if name not in BACKENDS]):
            raise ValueError(f"there is no backend {unknown[0]!r}: use one or more of {', '.join(BACKENDS)}")
        return names

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
            return parse_profile(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
        except OSError as error:
            raise FileMissing(
                f"the profile {path} cannot be read ({error.strerror}): correct THREADLEDGER_PROFILE"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidProfile(f"the profile {path} is not TOML ({error}): fix it, or name another file") from error

    def model_for(self, backend: str, profile: Profile) -> str:
        """Return the model that a backend uses; the fallback has its own setting."""
        first = self.openai_model or profile.model or DEFAULT_MODEL
        is_fallback = backend == "chat" and self.order[:1] != ("chat",)
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
    try:
        given = _one_provider({key: value for key, value in options.items() if value is not None})
        settings = Settings(**{_name(key): value for key, value in given.items()})
        settings._options = frozenset(given)
        _check_provider(settings)
        return settings
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = first["loc"][0] if first["loc"] else "a setting"
        raise InvalidSettings(
            f"{name} cannot be used ({first['msg'].removeprefix('Value error, ')}): see .env.example"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"the file .env is not UTF-8 text ({error.reason}): save it as UTF-8") from None


def settings_alone(**options: Any) -> Settings:
    """Create settings from these values (by field name) and the defaults.

    The environment and `.env` are not read, and nothing is validated.
    """
    key = options.pop("openai_api_key", None)
    return Settings.model_construct(**options, openai_api_key=SecretStr(key) if key is not None else None)


def origins(settings: Settings) -> dict[str, str]:
    """Return the origin of each setting, by its environment name: option, environment, .env or default."""
    import os

    from dotenv import dotenv_values

    in_file = {name.upper() for name, value in dotenv_values(".env").items() if value}
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    found = {}
    for key in Settings.model_fields:
        name = _name(key)
        place = "environment" if name in in_environment else ".env" if name in in_file else "default"
        found[name] = "option" if key in settings._options else place
    return found


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
