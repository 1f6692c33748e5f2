"""Read `threadledger.toml`, and connect the backends that it names. Without the file, this module is not loaded.

Top-level keys are the field names of `Settings`; each table `[backends.NAME]` names a backend, or changes a built-in one, and
`[serve]` is for the server. The file never holds a key: `api_key_env` names the environment variable (or the line of `.env`)
that has it.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from threadledger.domain.arguments import is_number
from threadledger.domain.errors import FileMissing, InvalidSettings

if TYPE_CHECKING:
    from threadledger.domain.exchange import Backend, BackendOptions

    from .anthropic import AnthropicClient
    from .openai import Client
    from .server import ServeSettings
    from .settings import Settings
    from .workers import Schedule

# Code that reaches a provider is imported on first use: a command that only reads needs none of it.

BUILT_IN = ("assistants", "responses", "chat")
KINDS = (*BUILT_IN, "anthropic", "python")
ANTHROPIC_BASE_URL = "https://api.anthropic.com"
NO_KEY = "no-key"
"""Sent instead of a key to an endpoint for which none is named: the SDK requires one, a local server ignores it."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
FUNCTION = re.compile(r"[^\s:]+:[A-Za-z_]\w*")
SECRET_KEY = re.compile(r"api_?key|authorization|password|secret|headers|(^|_)token$", re.IGNORECASE)
"""Names of keys whose values are secrets."""

RESERVED = frozenset(
    {
        *("model", "messages", "input", "stream", "stream_options", "tools", "instructions", "system", "background"),
        *("conversation", "previous_response_id", "assistant_id", "thread", "thread_id", "metadata"),
    }
)
"""Request parameters that a run sets itself."""

RETRIES_MAX, TIMEOUT_SECONDS_MAX = 20, 3600.0


@dataclass(frozen=True)
class NamedBackend:
    """Hold one table `[backends.NAME]`."""

    name: str
    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable that has the key."""
    model: str | None = None
    timeout_seconds: float | None = None
    retries: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that every request contains in addition."""
    function: str | None = None
    """Function of the app, as `module:function`; only for the kind `python`."""

    def shown(self) -> dict[str, Any]:
        """Return the table as it is shown to people, without defaults."""
        return {name: value for name, value in vars(self).items() if name != "name" and value not in (None, {})}


TABLE_KEYS = tuple(name for name in NamedBackend.__dataclass_fields__ if name != "name")


@dataclass(frozen=True)
class ConfigFile:
    """Hold the content of `threadledger.toml`."""

    path: Path
    settings: Mapping[str, Any]
    """Values by field name."""
    backends: Mapping[str, NamedBackend]
    raw: bytes = b""
    """Content of the file, as it was read."""
    serve: ServeSettings | None = None
    """The table `[serve]`, if there is one."""
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    """The table `[schedules]`."""


def read_config(path: Path, fields: Mapping[str, bool]) -> ConfigFile:
    """Read and check a configuration file.

    Args:
        path: the file.
        fields: names of the settings, each with whether it is a secret.

    Raises:
        FileMissing: the file cannot be read.
        InvalidSettings: the file is not valid; the message names the file, the table and the key.
    """
    from .settings import read_named_file

    try:
        raw = read_named_file(path)
        given = tomllib.loads(raw.decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise FileMissing(f"{path} cannot be read ({error.strerror}): correct THREADLEDGER_CONFIG") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} is not TOML ({error}): fix it, or name another file") from error
    tables = given.pop("backends", {})
    if not isinstance(tables, Mapping):
        raise InvalidSettings(
            f'{path}: backends holds the tables [backends.NAME]: give the order tried as chain = ["responses", "chat"]'
        )
    serve = _serve(given.pop("serve"), path) if "serve" in given else None
    schedules = _schedules(given.pop("schedules"), path) if "schedules" in given else {}
    if "chain" in given:
        given["backends"] = _chain(given.pop("chain"), path)
    for key in given:
        if key not in fields or key == "config":
            known = ", ".join(sorted({"chain", *fields} - {"backends", "config"}))
            raise InvalidSettings(
                f"{path} has an unknown key {key!r}: use [backends.NAME], [serve], [schedules], or one or more of {known}"
            )
        if fields[key]:
            raise InvalidSettings(f"{path} holds a key ({key}): set it in the environment or in .env instead")
    backends = {name: _table(name, table, path) for name, table in tables.items()}
    return ConfigFile(path, given, backends, raw, serve, schedules)


def _serve(given: object, path: Path) -> ServeSettings:
    from .server import parse_serve

    return parse_serve(given, path)


def _schedules(given: object, path: Path) -> Mapping[str, Schedule]:
    from .workers import parse_schedules

    return parse_schedules(given, path)


def with_settings_first(file: ConfigFile, settings: Settings, given: Set[str]) -> ConfigFile:
    """Return the file without the keys of built-in backends that other sources set; those win over the file.

    Args:
        file: the configuration file.
        settings: the settings. `openai_model` is the model of the first backend, `fallback_model` that of a later `chat`.
        given: names of the settings that an option, the environment or `.env` sets.
    """
    given = {key for key in given if getattr(settings, key) is not None}
    order = settings.order

    def outranked(name: str) -> Iterator[str]:
        yield from given & {"retries", "timeout_seconds"}
        is_first = order[:1] == (name,)
        if (is_first and "openai_model" in given) or (not is_first and name == "chat" and "fallback_model" in given):
            yield "model"
        if file.backends[name].base_url is not None and given & {"openai_base_url", "azure_openai_endpoint"}:
            yield from ("base_url", "api_key_env")  # the key is for that address only

    def changed(table: NamedBackend) -> NamedBackend:
        left_out: dict[str, Any] = dict.fromkeys(outranked(table.name))
        return replace(table, **left_out) if table.name in BUILT_IN else table

    return replace(file, backends={name: changed(table) for name, table in file.backends.items()})


def _chain(given: object, path: Path) -> tuple[str, ...]:
    if isinstance(given, list) and given and all(isinstance(name, str) for name in given):
        return tuple(given)
    raise InvalidSettings(
        f'{path}: chain is not a list of names, with at least one: give chain = ["responses", "chat"]'
    )


def _table(name: str, given: object, path: Path) -> NamedBackend:
    where = f"{path}: [backends.{name}]"
    if not NAME.fullmatch(name):
        raise InvalidSettings(
            f"{path}: {name!r} is not a valid name of a backend: use letters, digits, dashes, dots and underscores"
        )
    if not isinstance(given, Mapping):
        raise InvalidSettings(f'{where} is not a table: write [backends.{name}] and below it kind = "chat"')
    for key in given:
        if key not in TABLE_KEYS and SECRET_KEY.search(key):
            raise InvalidSettings(
                f"{where} has the key {key!r}, and no secret belongs in this file: set it in the environment and name its "
                'variable, as in api_key_env = "MISTRAL_API_KEY"'
            )
        if key not in TABLE_KEYS:
            raise InvalidSettings(f"{where} has an unknown key {key!r}: use one or more of {', '.join(TABLE_KEYS)}")
    values: dict[str, Any] = {key: _checked(key, value, where) for key, value in given.items()}
    kind = values.pop("kind", name if name in BUILT_IN else None)
    if kind is None:
        raise InvalidSettings(f"{where} has no kind: set it to one of {', '.join(KINDS)}")
    if name in BUILT_IN and kind != name:
        raise InvalidSettings(f"{where} is built in, and its kind is {name!r}: choose another name for kind {kind!r}")
    if (kind == "python") != ("function" in values):
        needed = "needs" if kind == "python" else "does not take"
        raise InvalidSettings(f'{where} is of kind {kind!r}, which {needed} function = "module:function"')
    if kind == "python" and (others := values.keys() & {"base_url", "api_key_env", "extra"}):
        raise InvalidSettings(f"{where} is a function, which takes no {min(others)}: remove it")
    if kind == "anthropic" and "model" not in values:
        raise InvalidSettings(
            f'{where} is of kind anthropic and has no model: add model = "NAME", one of that provider'
        )
    own: dict[str, Any] = (
        {"base_url": ANTHROPIC_BASE_URL, "api_key_env": "ANTHROPIC_API_KEY"} if kind == "anthropic" else {}
    )
    return NamedBackend(name, kind, **(own | values))


def _checked(key: str, value: object, where: str) -> Any:
    """Return the value of a key.

    Raises:
        InvalidSettings: the value is not valid. The message does not show it: it may be a secret.
    """
    expected = _expected(key, value)
    if expected is None:
        return value
    raise InvalidSettings(f"{where}: {key} cannot be used: give {expected}")


def _expected(key: str, value: object) -> str | None:
    """Return what a key expects if the value is something else; None if the value can be used."""
    text = value if isinstance(value, str) else ""
    match key:
        case "kind":
            return None if text in KINDS else f"one of {', '.join(KINDS)}"
        case "base_url":
            return None if _is_address(text) else "an address like https://host/v1, without user, password and query"
        case "api_key_env":
            return None if VARIABLE.fullmatch(text) else "the name of an environment variable, like MISTRAL_API_KEY"
        case "function":
            return None if FUNCTION.fullmatch(text) else "a function of a module, like my_app.answers:local"
        case "timeout_seconds":
            fits = is_number(value) and 0 < value <= TIMEOUT_SECONDS_MAX
            return None if fits else f"seconds, more than 0 and at most {TIMEOUT_SECONDS_MAX:g}"
        case "retries":
            fits = is_number(value) and isinstance(value, int) and 0 <= value <= RETRIES_MAX
            return None if fits else f"a whole number from 0 to {RETRIES_MAX}"
        case "extra":
            return _expected_extra(value)
        case _:
            return None if text.strip() else "a text that is not empty"


def _expected_extra(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return "a table, like extra = { temperature = 0.2 }"
    if set_by_runs := sorted(value.keys() & RESERVED):
        return f"parameters that a run does not set itself, without {set_by_runs[0]!r}"
    if (secret := next(_secrets_in(value), None)) is not None:
        return f"no secret: {secret!r} belongs in the environment, and api_key_env names its variable"
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return "values that JSON has: texts, numbers, booleans, lists and tables"
    return None


def _secrets_in(value: object, at_top: bool = True) -> Iterator[str]:
    """Return the keys at any level whose values are secrets. In a schema, a table describes a value and is none."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if SECRET_KEY.search(key) and (at_top or not isinstance(inner, Mapping) or "headers" in key.lower()):
                yield key
            yield from _secrets_in(inner, at_top=False)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _secrets_in(inner, at_top=False)


def _is_address(text: str) -> bool:
    from .settings import is_address

    return is_address(text) and not {"@", "?", "#"} & set(text)


def key_of(variable: str | None, settings: Settings) -> str | None:
    """Return the key in a variable of the environment, else of `.env` as the settings read it; None if it is not set."""
    if variable is None:
        return None
    from .settings import env_file_values

    found = os.environ.get(variable) or env_file_values(settings._dotenv or b"").get(variable.upper()) or ""
    return found.strip() or None  # a file that holds a key ends with a newline


def problem_of_backend(backend: NamedBackend, settings: Settings) -> tuple[str, str] | None:
    """Return why a backend cannot answer and how to fix it; None if it can. A function is not imported."""
    if backend.api_key_env is not None and key_of(backend.api_key_env, settings) is None:
        return f"{backend.api_key_env} is not set", f"set {backend.api_key_env} in the environment or in .env"
    if backend.function is not None:
        from .tool_loading import problem_of_function

        if (problem := problem_of_function(backend.function, "function")) is not None:
            return problem, f"correct function in [backends.{backend.name}]"
    if backend.kind == "anthropic" and find_spec("anthropic") is None:
        return "the library of its kind is not installed", "pip install 'threadledger[anthropic]'"
    return None


class Endpoints:
    """Connect each backend of the chain to its endpoint, with the key of that endpoint only."""

    def __init__(self, settings: Settings, client: Client) -> None:
        """Prepare the connections; `client` is the provider's of the settings, for backends without an endpoint of their own."""
        self._settings = settings
        self._named = settings.named
        self._client = client
        self._own: dict[str, Client] = {}

    @cached_property
    def home(self) -> Client:
        """Return the client of the endpoint where threads and files are stored."""
        name = self._settings.threads_backend
        return self._client if name is None else self.client(name)

    def client(self, name: str) -> Client:
        """Return the client of a backend."""
        named = self._named.get(name)
        if named is None or named.kind == "python" or not self._settings.has_own_endpoint(name):
            return self._client
        if name not in self._own:
            self._own[name] = self._client_of(named)
        return self._own[name]

    def options(self, name: str) -> BackendOptions:
        """Return how a backend is named and set."""
        from threadledger.domain.exchange import BackendOptions

        named = self._named.get(name, NamedBackend(name, name))
        client = self.client(name)
        is_home = _is_same_place(client, self.home) and named.kind != "python"
        endpoint = f"python:{named.function}" if named.kind == "python" else client.endpoint
        return BackendOptions(name, endpoint, is_home, named.extra)

    def answers_in_threads(self, name: str) -> bool:
        """Return whether a backend answers in the provider's threads: the one that is named for it, or a built-in one there."""
        chosen = self._settings.threads_backend
        return name == chosen or (name in BUILT_IN and _is_same_place(self.client(name), self.home))

    def builders(self, kinds: Mapping[str, Callable[[str], Backend]]) -> dict[str, Callable[[], Backend]]:
        """Return a function for each named backend that builds it; `kinds` builds those of the built-in kinds.

        A function that cannot be imported, or a library that is not installed, is the failure of a run: the next backend of
        the chain answers, and `append` needs neither.
        """
        own = dict(kinds) | {"python": self._python, "anthropic": self._anthropic}
        return {name: partial(own[named.kind], name) for name, named in self._named.items()}

    def _anthropic_client(self, named: NamedBackend) -> Client:
        from .anthropic import AnthropicClient

        return AnthropicClient(
            key_of(named.api_key_env, self._settings),
            named.base_url,
            timeout_seconds=named.timeout_seconds or self._settings.timeout_seconds,
            key_name=named.api_key_env or "",
            allow=partial(self._settings.require_trust, "provider"),
            share=self._client.share,
        )

    def _python(self, name: str) -> Backend:
        from .python_backend import PythonBackend

        return PythonBackend(self._named[name].function or "", self.options(name))

    def _anthropic(self, name: str) -> Backend:
        from .anthropic import AnthropicBackend

        return AnthropicBackend(cast("AnthropicClient", self.client(name)), options=self.options(name))

    def prices(self) -> dict[str, Callable[[str, int, int], float | None]]:
        """Return a function for each backend of another provider that returns US dollars for tokens of a model."""

        def at(endpoint: str) -> Callable[[str, int, int], float | None]:
            def price(model: str, input_tokens: int, output_tokens: int) -> float | None:
                from .prices import price

                return price(model, input_tokens, output_tokens, endpoint)

            return price

        return {name: at(endpoint) for name, endpoint in self.elsewhere().items()}

    def elsewhere(self) -> dict[str, str]:
        """Return the addresses of the backends of other providers, by name."""
        placed = {name: str(self.options(name).endpoint) for name in self._named}
        return {name: endpoint for name, endpoint in placed.items() if endpoint != self._client.endpoint}

    def every(self) -> list[Client]:
        """Return the clients of all named backends."""
        return [self.client(name) for name in self._named]

    def close(self) -> None:
        """Close all connections."""
        for client in (self._client, *self._own.values()):
            client.close()

    def be_interruptible(self) -> None:
        """Make the calls of all clients interruptible."""
        for client in (self._client, *self.every()):
            client.be_interruptible()

    async def aclose(self) -> None:
        """Close all connections, including those of the current event loop."""
        for client in (self._client, *self._own.values()):
            await client.aclose()

    def _client_of(self, named: NamedBackend) -> Client:
        """Create the client of an endpoint or a key of its own. The key of one endpoint is never sent to another."""
        from .openai import Client

        if named.kind == "anthropic":
            return self._anthropic_client(named)
        key, seconds = (
            key_of(named.api_key_env, self._settings),
            named.timeout_seconds or self._settings.timeout_seconds,
        )
        name = named.api_key_env or self._client.key_name
        elsewhere = Client(
            NO_KEY if named.api_key_env is None else key,
            named.base_url,
            timeout_seconds=seconds,
            key_name=name,
            is_home=False,
            allow=self._client.allow,
            open_uploads=self._client.open_uploads,
            share=self._client.share,
        )
        if named.base_url is not None and elsewhere.endpoint != self._client.endpoint:
            return elsewhere
        here = replace(self._client, timeout_seconds=seconds)
        if named.api_key_env is None:
            return here
        own = replace(here, api_key=key, key_name=name, is_home=False)
        return replace(own, azure_ad_token=None, organization=None, project=None)


def _is_same_place(one: Client, other: Client) -> bool:
    """Return whether two clients reach the same account at the same endpoint, so that an id of one exists for the other."""
    return (one.endpoint, one.api_key, one.azure_ad_token) == (other.endpoint, other.api_key, other.azure_ad_token)
