"""Read the settings: option, environment, `.env`, `threadledger.toml`, default; each wins over those after it.

Settings are frozen once read. Unknown keys in `.env` are ignored, unknown keys in `threadledger.toml` are refused.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import stat
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

from threadledger.domain import limits
from threadledger.domain.conversation import Profile
from threadledger.domain.errors import FileMissing, InvalidProfile, InvalidSettings

if TYPE_CHECKING:
    from .named_backends import ConfigFile, NamedBackend
    from .server import ServeSettings
    from .trust import Action
    from .workers import Schedule

BACKENDS = ("assistants", "responses", "chat")
ENV_FILE = Path(".env")
CONFIG_FILE = Path("threadledger.toml")
DEFAULT_PROFILE = Path("profiles/john.toml")
DEFAULT_MODEL = "gpt-5.5"
"""Model used if neither OPENAI_MODEL nor the profile names one. Models retire: GET /models returns `shutdown_date`.
gpt-5.5 is the model in the openai SDK's own examples (3.54, November 2026)."""

RETRIES_MAX = 20
"""Maximum number of retries of one backend."""

TIMEOUT_SECONDS_MAX = 3_600.0
"""Maximum timeout of one run, in seconds."""

DEADLINE_SECONDS_MAX = 86_400.0
"""Maximum deadline of an exchange, in seconds: one day."""

COST_DOLLARS_MAX = 1e9
"""Maximum budget, in US dollars: amounts are stored in billionths, as integers of 64 bits."""


RERUN_MINUTES_MAX = 1_440
"""Maximum number of minutes after which a failure is rerun by policy: one day, after which it is left to a person."""


TENANT_CHARS_MAX = 63
"""Maximum length of a tenant's name, in characters: that of a name in PostgreSQL and of a label in DNS."""

TENANT = re.compile(rf"[a-z0-9_-]{{1,{TENANT_CHARS_MAX}}}")
"""Name of a tenant that has a ledger of its own."""

TENANT_PLACE = "{tenant}"
"""What stands in an address for the name of the tenant."""

PER_TENANT = ("db", "read_db", "blobs")
"""Settings that name the tenant if the database does, so that no tenant reads or removes what is another's."""


class SecretStr:
    """Hold a secret text: neither `str` nor `repr` shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Return the text itself."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def __str__(self) -> str:
        return "**********" if self._value else ""

    def __repr__(self) -> str:
        return f"SecretStr({str(self)!r})"


def _text(given: object) -> str:
    if isinstance(given, str):
        return str(given)
    raise ValueError("Input should be a valid string")


def _secret(given: object) -> SecretStr | None:
    if isinstance(given, SecretStr):
        return given
    key = _text(given).strip()  # a file that holds a key ends with a newline
    return SecretStr(key) if key else None


def _path(given: object) -> Path:
    if isinstance(given, (str, os.PathLike)):
        return Path(given)
    raise ValueError("Input is not a valid path")


def _names(given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    if not isinstance(given, (list, tuple)):
        raise ValueError("Input should be a list of names")
    if not given:
        raise ValueError("Input should have at least one name")
    return tuple(map(_text, given))


def _boolean(given: object) -> bool:
    found = _BOOLEANS.get(str(given).lower()) if isinstance(given, (bool, int, str)) else None
    if found is None:
        raise ValueError("Input should be a valid boolean, unable to interpret input")
    return found


_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "f", "0"), False),
}


def _number(given: object) -> int | float | str:
    if isinstance(given, bool):
        raise ValueError("Input should be a number, not true or false")
    if isinstance(given, (int, float, str)):
        return given
    raise ValueError("Input should be a number")


def _whole(minimum: int, maximum: int | None = None) -> Callable[[object], int]:
    """Return what reads a whole number from `minimum` to `maximum`."""

    def read(given: object) -> int:
        number = _number(given)
        try:
            value = int(number)
        except (ValueError, OverflowError):
            raise ValueError("Input should be a valid integer") from None
        if isinstance(number, float) and value != number:
            raise ValueError("Input should be a valid integer, got a number with a fractional part")
        if value < minimum:
            raise ValueError(f"Input should be greater than or equal to {minimum}")
        if maximum is not None and value > maximum:
            raise ValueError(f"Input should be less than or equal to {maximum}")
        return value

    return read


def _amount(maximum: float, *, zero: bool = False) -> Callable[[object], float]:
    """Return what reads a number of seconds or dollars: more than 0, or also 0, and at most `maximum`."""

    def read(given: object) -> float:
        try:
            value = float(_number(given))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                str(error) if isinstance(given, bool) else "Input should be a valid number, unable to parse it"
            ) from None
        if not (value > 0 or (zero and value == 0)):
            raise ValueError(f"Input should be {'0 or more' if zero else 'greater than 0'}")
        if value > maximum:
            raise ValueError(f"Input should be less than or equal to {maximum:g}")
        return value

    return read


_DOLLARS = _amount(COST_DOLLARS_MAX, zero=True)


def _minutes(given: object) -> int | None:
    """Return a number of minutes; None for `never`."""
    return None if given == "never" else _whole(1, RERUN_MINUTES_MAX)(given)


def _tenant(given: object) -> str:
    """Return the name of a tenant, which may become part of a path, a URL or the name of a database."""
    if TENANT.fullmatch(_text(given)) is None:
        raise ValueError(f"a tenant has 1 to {TENANT_CHARS_MAX} characters of a-z, 0-9, _ and -")
    return _text(given)


def _choice(*choices: str) -> Callable[[object], str]:
    def read(given: object) -> str:
        if isinstance(given, str) and given in choices:
            return given
        *others, last = map(repr, choices)
        raise ValueError(f"Input should be {', '.join(others)} or {last}")

    return read


class Field:
    """Define one setting: its name in the environment, what reads a given value, and its default."""

    __slots__ = ("default", "name", "read")

    def __init__(self, name: str, read: Callable[[object], Any], default: Any) -> None:
        self.name, self.read, self.default = name, read, default

    @property
    def is_secret(self) -> bool:
        """Return whether the value is a secret."""
        return self.read is _secret


def _field(name: str, read: Callable[[object], Any], default: Any = None) -> Any:
    """Return the field of a setting. It has the type of the value, because each instance has its own value in its place."""
    return Field(name, read, default)


class Settings:
    """Hold the settings of threadledger (see docs/settings.md)."""

    db: str = _field("THREADLEDGER_DB", _text, "sqlite:///threadledger.db")
    tenant: str | None = _field("THREADLEDGER_TENANT", _tenant)
    read_db: str | None = _field("THREADLEDGER_READ_DB", _text)
    blobs: str | None = _field("THREADLEDGER_BLOBS", _text)
    openai_api_key: SecretStr | None = _field("OPENAI_API_KEY", _secret)
    openai_base_url: str | None = _field("OPENAI_BASE_URL", _text)
    openai_org_id: str | None = _field("OPENAI_ORG_ID", _text)
    openai_project_id: str | None = _field("OPENAI_PROJECT_ID", _text)
    azure_openai_endpoint: str | None = _field("AZURE_OPENAI_ENDPOINT", _text)
    azure_openai_api_key: SecretStr | None = _field("AZURE_OPENAI_API_KEY", _secret)
    azure_openai_ad_token: SecretStr | None = _field("AZURE_OPENAI_AD_TOKEN", _secret)
    openai_api_version: str | None = _field("OPENAI_API_VERSION", _text)
    backends: tuple[str, ...] = _field("THREADLEDGER_BACKENDS", _names, ("responses", "chat"))
    config: Path | None = _field("THREADLEDGER_CONFIG", _path)
    fallback: Literal["drop", "strict"] = _field("THREADLEDGER_FALLBACK", _choice("drop", "strict"), "drop")
    on_loss: Literal["allow", "refuse"] = _field("THREADLEDGER_ON_LOSS", _choice("allow", "refuse"), "allow")
    stream_fallback: Literal["restart", "continue"] = _field(
        "THREADLEDGER_STREAM_FALLBACK", _choice("restart", "continue"), "restart"
    )
    threads_backend: str | None = _field("THREADLEDGER_THREADS_BACKEND", _text)
    use_assistants_api: bool | None = _field("USE_ASSISTANTS_API", _boolean)
    openai_assistant_id: str | None = _field("OPENAI_ASSISTANT_ID", _text)
    threads: Literal["conversations", "assistants", "none"] = _field(
        "THREADLEDGER_THREADS", _choice("conversations", "assistants", "none"), "conversations"
    )
    mirror_by: Literal["app", "worker"] = _field("THREADLEDGER_MIRROR_BY", _choice("app", "worker"), "app")
    profile: Path | None = _field("THREADLEDGER_PROFILE", _path)
    openai_model: str | None = _field("OPENAI_MODEL", _text)
    fallback_model: str | None = _field("THREADLEDGER_FALLBACK_MODEL", _text)
    retries: int = _field("THREADLEDGER_RETRIES", _whole(0, RETRIES_MAX), limits.RETRIES_DEFAULT)
    timeout_seconds: float = _field(
        "THREADLEDGER_TIMEOUT_SECONDS", _amount(TIMEOUT_SECONDS_MAX), limits.BACKEND_TIMEOUT_SECONDS
    )
    deadline_seconds: float = _field(
        "THREADLEDGER_DEADLINE_SECONDS", _amount(DEADLINE_SECONDS_MAX), limits.EXCHANGE_DEADLINE_SECONDS
    )
    while_running: Literal["reject", "queue", "interrupt"] = _field(
        "THREADLEDGER_WHILE_RUNNING", _choice("reject", "queue", "interrupt"), "reject"
    )
    stateless: bool = _field("THREADLEDGER_STATELESS", _boolean, False)
    background: bool = _field("THREADLEDGER_BACKGROUND", _boolean, False)
    tools: str | None = _field("THREADLEDGER_TOOLS", _text)
    memory_last: int | None = _field("THREADLEDGER_MEMORY_LAST", _whole(1))
    memory_tokens: int | None = _field("THREADLEDGER_MEMORY_TOKENS", _whole(1))
    compact_at_tokens: int | None = _field("THREADLEDGER_COMPACT_AT_TOKENS", _whole(1))
    compact_keep_last: int = _field("THREADLEDGER_COMPACT_KEEP_LAST", _whole(1), limits.COMPACT_KEEP_LAST)
    max_cost_per_conversation: float | None = _field("THREADLEDGER_MAX_COST_PER_CONVERSATION", _DOLLARS)
    max_cost_per_owner_day: float | None = _field("THREADLEDGER_MAX_COST_PER_OWNER_DAY", _DOLLARS)
    budget_output_tokens: int = _field("THREADLEDGER_BUDGET_OUTPUT_TOKENS", _whole(1), limits.BUDGET_OUTPUT_TOKENS)
    shared_limits: bool | None = _field("THREADLEDGER_SHARED_LIMITS", _boolean)
    rerun_unanswered: int | None = _field("THREADLEDGER_RERUN_UNANSWERED", _minutes)
    rerun_max_runs_per_day: int = _field("THREADLEDGER_RERUN_MAX_RUNS_PER_DAY", _whole(1), limits.RERUN_RUNS_PER_DAY)
    rerun_max_cost_per_day: float | None = _field("THREADLEDGER_RERUN_MAX_COST_PER_DAY", _DOLLARS)
    webhook: SecretStr | None = _field("THREADLEDGER_WEBHOOK", _secret)
    webhook_secret: SecretStr | None = _field("THREADLEDGER_WEBHOOK_SECRET", _secret)
    log_format: Literal["text", "json"] = _field("THREADLEDGER_LOG_FORMAT", _choice("text", "json"), "text")
    log_text: bool = _field("THREADLEDGER_LOG_TEXT", _boolean, False)
    telemetry: bool = _field("THREADLEDGER_TELEMETRY", _boolean, False)
    synchronous: Literal["FULL", "NORMAL"] = _field("THREADLEDGER_SYNCHRONOUS", _choice("FULL", "NORMAL"), "FULL")

    fields: ClassVar[Mapping[str, Field]]
    """All settings by the names of their attributes."""

    def __init__(self, **values: Any) -> None:
        """Hold these values, which are not checked, and the defaults."""
        self._options: frozenset[str] = frozenset()
        """Names of the fields that were given as options."""
        self._file: Any = None
        """The `ConfigFile`, if there is one; its values are used for the fields in `_from_file`."""
        self._from_file: frozenset[str] = frozenset()
        self._dotenv: bytes | None = None
        """The content of `.env`, read once: what is checked (`trust.py`) is what is used."""
        self._profile: bytes | None = None
        """The content of the profile, which a command reads once, for the same reason."""
        self._pattern = ""
        """The address of the database before a tenant was chosen."""
        self._trust: Any = None
        """The `FolderTrust` of a command; None in an app, which runs the code of its folder anyway."""
        vars(self).update({key: values.get(key, field.default) for key, field in self.fields.items()})

    @property
    def is_per_tenant(self) -> bool:
        """Return whether the database is that of a tenant, and none was chosen yet."""
        return TENANT_PLACE in self.db

    def of_tenant(self, tenant: str) -> Settings:
        """Return these settings with the addresses of one tenant.

        Raises:
            InvalidSettings: the name cannot be that of a tenant.
        """
        found = copy.copy(self)
        name = _read_value(self.fields["tenant"], tenant, "the tenant")
        chosen = {key: getattr(self, key).replace(TENANT_PLACE, name) for key in PER_TENANT if getattr(self, key)}
        vars(found).update(chosen, tenant=name)
        found._pattern = self.db
        return found

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise AttributeError("settings are frozen once read: load them again with other options")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{key}={getattr(self, key)!r}' for key in self.fields)})"

    @property
    def config_file(self) -> str | None:
        """Return the path of the configuration file that was read; None if there is none."""
        return str(self._file.path) if self._file is not None else None

    @property
    def named(self) -> Mapping[str, NamedBackend]:
        """Return the tables `[backends.NAME]` of `threadledger.toml`."""
        return self._file.backends if self._file is not None else {}

    @property
    def has_routes(self) -> bool:
        """Return whether `threadledger.toml` has a table `[serve]`."""
        return self._file is not None and self._file.serve is not None

    @property
    def serve(self) -> ServeSettings:
        """Return the table `[serve]` of `threadledger.toml`, or the defaults."""
        if self._file is not None and self._file.serve is not None:
            return cast("ServeSettings", self._file.serve)
        from .server import ServeSettings

        return ServeSettings()

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """Return the table `[schedules]` of `threadledger.toml`."""
        return self._file.schedules if self._file is not None else {}

    def require_trust(self, action: Action, *names: str) -> Mapping[Path, bytes]:
        """Return the contents of the code files that were checked; see `FolderTrust.require`."""
        return self._trust.require(action, *names) if self._trust is not None else {}

    @property
    def depends_on_folder(self) -> bool:
        """Return whether a file of the working folder, or a name that may be found there, is part of the settings, or its
        profile may name a secret of the environment."""
        has_files = self._dotenv is not None or self._file is not None or self.tools is not None
        return has_files or any(name.startswith(Profile.VARIABLE) for name in os.environ)

    def kind_of(self, backend: str) -> str:
        """Return the kind of a backend: a built-in name is its own kind."""
        return self.named[backend].kind if backend in self.named else backend

    @property
    def replica(self) -> str | None:
        """Return the replica of the database; None if there is none, or only of another database than an option names."""
        return self.read_db if "db" not in self._options or "read_db" in self._options else None

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

        from threadledger.domain.conversation import parse_profile

        try:
            if self._profile is None or self._trust is None:
                self._profile = read_named_file(path)
            text = self._profile.decode("utf-8-sig").replace("\r\n", "\n")
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


Settings.fields = {key: field for key, field in vars(Settings).items() if isinstance(field, Field)}


def load_settings(**options: Any) -> Settings:
    """Read the settings; `options` (by field name) win over all other sources; options set to None are ignored.

    Raises:
        InvalidSettings: a setting is unknown or invalid; the message names it and says what is expected.
    """
    unknown = options.keys() - Settings.fields.keys()
    if unknown:
        raise InvalidSettings(f"there is no setting {min(unknown)!r}: use one or more of {', '.join(Settings.fields)}")
    given = _one_provider({key: value for key, value in options.items() if value is not None})
    env_file, in_dotenv = _read_env_file()
    outside = {**in_dotenv, **{name.upper(): value for name, value in os.environ.items() if value}}
    path = _config_path(given, outside)
    file, in_file = None, dict[str, Any]()
    if path is not None:
        file = _read_config(path)
        in_file = {key: each for key, each in file.settings.items() if not {key, _name(key)} & {*given, *outside}}
    values: dict[str, Any] = {key: outside[_name(key)] for key in Settings.fields if _name(key) in outside}
    checked = {}
    for key, field in Settings.fields.items():
        for place, source in ((field.name, given), (field.name, values), (f"{path}: {key}", in_file)):
            if key in source:
                checked[key] = _read_value(field, source[key], place)
                break
    settings = Settings(**checked)
    settings._options, settings._file, settings._from_file = frozenset(given), file, frozenset(in_file)
    settings._dotenv = env_file
    if file is not None and not file.backends.keys().isdisjoint(BACKENDS):
        from .named_backends import with_settings_first

        settings._file = with_settings_first(file, settings, {*values, *given})
    _check_provider(settings)
    _check_backends(settings)
    if settings.tenant is None and not any(TENANT_PLACE in (getattr(settings, key) or "") for key in PER_TENANT):
        return settings
    from .tenant_ledgers import require_whole

    require_whole(settings)
    return settings.of_tenant(settings.tenant) if settings.tenant is not None else settings


def _read_value(field: Field, given: object, place: str) -> Any:
    """Return the value of a setting; None is the value of one that an option unsets.

    Raises:
        InvalidSettings: the value cannot be used. The message does not show it: it may be a secret.
    """
    if given is None and field.default is None:
        return None
    try:
        return field.read(given)
    except ValueError as error:
        raise InvalidSettings(f"{place} cannot be used ({error}): see .env.example") from None


def settings_alone(**options: Any) -> Settings:
    """Create settings from these values (by field name) and the defaults.

    The environment and `.env` are not read, and nothing is validated.
    """
    key = options.pop("openai_api_key", None)
    return Settings(**options, openai_api_key=SecretStr(key) if key is not None else None)


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

    return read_config(path, {key: field.is_secret for key, field in Settings.fields.items()})


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
    return Settings.fields[key].name
