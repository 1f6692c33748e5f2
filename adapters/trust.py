"""Check whether the user trusts the working folder, before a command uses code or a host that only the folder names.

An app that opens a ledger runs the code of its folder anyway: only the commands are checked (`Settings.require_trust`). A folder
needs trust for code that it holds or names, for a host that only its `.env` or `threadledger.toml` names, if a key, a
password or text would be sent there that is not the folder's own, for a place of attachments outside it that only they name,
and for secrets of the environment that its profile, its host or its database may send anywhere.

A trusted folder is one file below `~/.config/threadledger/trust`, with the hash of each file that was trusted. The hashes are
compared with the bytes that are used, not with those of a later read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit

from threadledger.domain.errors import FileMissing, InvalidProfile, InvalidSettings
from threadledger.domain.ids import now, to_iso
from threadledger.domain.limits import SETTINGS_FILE_BYTES_MAX

from .private_files import private_file
from .setting_origins import folders_own, has_own_config, inserts_variables, inside, origins
from .settings import DEFAULT_PROFILE, ENV_FILE, Settings, read_named_file
from .sql import DatabasePlace, database_place

if TYPE_CHECKING:
    from .named_backends import NamedBackend

TRUST_DIR = "THREADLEDGER_TRUST_DIR"
"""Variable of the environment, never of `.env`, that names folders which are trusted whatever they hold, as in a container."""

POSTGRES_PASSWORDS = ("PGPASSWORD", "PGPASSFILE", "PGSERVICE")
"""Variables from which PostgreSQL's client takes a password that the URL does not have."""
SDK_VARIABLES = {
    "openai": ("OPENAI_CUSTOM_HEADERS",),
    "anthropic": ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS"),
}
"""Variables of the environment that the SDKs send to any host."""

Action = Literal["database", "replica", "blobs", "provider", "code", "secrets", "schedules", "webhook", "reruns"]
ACTIONS: tuple[Action, ...] = get_args(Action)


class FolderNotTrusted(InvalidSettings):
    """Raised when a command would use code or a host that only an untrusted folder names."""


@dataclass(frozen=True)
class Need:
    """Describe one reason why a folder needs trust."""

    setting: str
    """Name of the setting, or `backends.NAME`."""
    reason: str


class FolderTrust:
    """Compare what the working folder names with what the user trusted."""

    @classmethod
    def check(cls, settings: Settings) -> None:
        """Make settings check the working folder from now on, as the commands do."""
        settings._trust = cls(settings)

    def __init__(self, settings: Settings) -> None:
        self.folder = Path.cwd()
        self._settings = settings
        self._own = folders_own(settings)
        self._origins = origins(settings)
        self._needs: dict[Action, tuple[Need, ...]] = {}
        self._recorded_secrets: set[str] = set()
        """Names of secrets that a recorded profile may have; the others are those of the configured one."""

    def needs(self, *actions: Action) -> tuple[Need, ...]:
        """Return what needs trust; for all actions if none is given."""
        find = {
            "database": lambda: self._server("db", self._place),
            "replica": lambda: self._server("read_db", _place_or_none(self._settings.read_db)),
            "blobs": self._blobs,
            "provider": self._hosts,
            "code": self._code,
            "secrets": self._secrets,
            "schedules": self._schedules,
            "webhook": self._webhook,
            "reruns": self._reruns,
        }
        for action in actions or ACTIONS:
            if action not in self._needs:
                self._needs[action] = tuple(find[action]())
        return tuple(need for action in actions or ACTIONS for need in self._needs[action])

    def require(self, action: Action, *names: str) -> Mapping[Path, bytes]:
        """Return the contents of the files that were checked, or raise if the folder needs trust for this and has none.

        `names` are the secrets that are about to be sent.

        Raises:
            FolderNotTrusted: the message says what is not trusted and what to run.
        """
        if not self._recorded_secrets.issuperset(names):
            self._recorded_secrets.update(names)
            self._needs.pop(action, None)
        needs = self.needs(action)
        if needs and self.state != "trusted":
            setting = needs[0].setting  # a variable may be set for one command alone, and `trust` records what it names
            same = f" with the same {setting}" if self._origins.get(setting) == "environment" else ""
            raise FolderNotTrusted(
                f"{self.described()}, and {needs[0].reason}: nothing was sent and no code was run; check "
                f"{', '.join(self.shown_files()) or 'the folder'}, then run{same}: threadledger trust"
            )
        if needs and action == "code":
            self._require_files()
        return self.files if needs else {}

    def _require_files(self) -> None:
        """Raise if a file of code was not compared because it cannot be read: it would run all the same."""
        for name, setting in self._named_code():
            for path in self._code_files(name, setting):
                if path not in self.files and os.path.lexists(path):
                    shown = _shown(path, self.folder)
                    raise InvalidSettings(
                        f"{setting}: {shown} cannot be read as a file of at most {SETTINGS_FILE_BYTES_MAX:,} bytes: "
                        "correct its permissions, or name another file"
                    )

    @property
    def is_needed(self) -> bool:
        """Return whether anything needs trust that the folder does not have."""
        return self.state != "trusted" and bool(self.needs())

    def described(self) -> str:
        """Return the state of the folder as the beginning of a sentence."""
        folder = shlex.quote(str(self.folder))
        if self.state == "changed":
            return f"the folder {folder} changed since it was trusted ({', '.join(self._changed())})"
        return f"the folder {folder} is {self.state}"

    @cached_property
    def state(self) -> Literal["trusted", "changed", "not trusted"]:
        """Return whether the folder is trusted with the content that its files have now."""
        if any(self.folder.is_relative_to(place) for place in trusted_places()):
            return "trusted"
        if self._recorded is None:
            return "not trusted"
        return "changed" if self._changed() else "trusted"

    @cached_property
    def files(self) -> Mapping[Path, bytes]:
        """Return the files of the folder that decide what is sent or run, with the bytes that are used."""
        found = {self.folder / ENV_FILE: self._settings._dotenv}
        if has_own_config(self._settings):
            found[self.folder / self._settings._file.path] = self._settings._file.raw
        if self._own_profile is not None and self._profile_secrets:
            found[self.folder / self._own_profile] = self._settings._profile
        for name, setting in self._named_code():
            found |= dict.fromkeys(self._code_files(name, setting))
        return {path: raw for path, raw in ((path, _read(path, raw)) for path, raw in found.items()) if raw is not None}

    def shown_files(self) -> list[str]:
        """Return the paths of the files, relative to the folder where that is shorter."""
        return [_shown(path, self.folder) for path in self.files]

    def grant(self) -> None:
        """Record trust in the folder with the content that its files have now; files that are not named now keep theirs.

        Raises:
            InvalidSettings: the record cannot be written.
        """
        _write(
            self.folder,
            {**(_recorded_files(self.folder) or {}), **{str(path): _digest(raw) for path, raw in self.files.items()}},
        )

    @cached_property
    def _recorded(self) -> Mapping[str, str] | None:
        return _recorded_files(self.folder)

    def _changed(self) -> list[str]:
        recorded = self._recorded or {}
        differs = [path for path, raw in self.files.items() if recorded.get(str(path)) != _digest(raw)]
        return [_shown(path, self.folder) for path in differs]

    # The database, and its replica

    def _server(self, field: str, place: DatabasePlace | None) -> Iterator[Need]:
        if place is None or field not in self._own or not place.names_host:
            return  # a file, or a server that the environment names
        sent = self._inserted()
        if place.uses_credentials:
            sent.append("a credential of the environment")
        elif not place.has_password and _has_postgres_password():
            sent.append("the database password of the environment")
        if sent:
            name = _name(field)
            yield Need(name, f"{name} ({self._origins[name]}) sends {sent[0]} to {place.host}")

    @cached_property
    def _place(self) -> DatabasePlace | None:
        """Return where the database is; None if its URL is not valid, which opening it reports."""
        return _place_or_none(self._settings.db)

    # Schedules

    def _schedules(self) -> Iterator[Need]:
        """Yield why schedules need trust: a worker runs their commands."""
        if self._settings.schedules and has_own_config(self._settings):
            names = ", ".join(self._settings.schedules)
            yield Need("schedules", f"[schedules] of {self._settings.config_file} has a worker run commands ({names})")

    # What a worker does by itself: reruns, and messages to a webhook

    def _reruns(self) -> Iterator[Need]:
        """Yield why reruns by policy need trust: a worker pays for them."""
        if "rerun_unanswered" in self._own and self._settings.rerun_unanswered is not None:
            name = _name("rerun_unanswered")
            yield Need(name, f"{name} ({self._origins[name]}) has a worker call models")

    def _webhook(self) -> Iterator[Need]:
        """Yield why the webhook needs trust: a worker sends there what it reads in the database."""
        given = self._settings.webhook
        if given is None or "webhook" not in self._own:
            return
        sent = [*self._inserted(), *self._text_from_outside()]
        if sent:
            name = _name("webhook")
            yield Need(name, _sends(name, self._origins[name], sent, given.get_secret_value()))

    # Attachments

    def _blobs(self) -> Iterator[Need]:
        """Yield why the place of attachments needs trust: which credentials fsspec finds and sends there is not known."""
        address = self._settings.blobs
        if address is None or "blobs" not in self._own:
            return
        from .blob_files import SETTING, local_folder

        folder = local_folder(address)
        if folder is None or not inside(self.folder, self.folder / folder):
            yield Need(SETTING, f"{SETTING} ({self._origins[SETTING]}) keeps attachments at {_place_of(address)}")

    # The provider and named backends

    def _hosts(self) -> Iterator[Need]:
        settings = self._settings
        on_azure = settings.azure_openai_endpoint is not None
        host = "azure_openai_endpoint" if on_azure else "openai_base_url"
        keys = ("azure_openai_api_key", "azure_openai_ad_token") if on_azure else ("openai_api_key",)
        address = getattr(settings, host)
        is_folders = host in self._own and self._is_only_the_folders(address)
        if is_folders and any(getattr(settings, key) is not None for key in keys):
            of_environment = [
                f"{_name(key)} of the environment"
                for key in (*keys, *([] if on_azure else ["openai_org_id", "openai_project_id"]))
                if getattr(settings, key) is not None and key not in self._own
            ]
            sent = [
                *of_environment,
                *_set_variables(*SDK_VARIABLES["openai"]),
                *self._inserted(),
                *self._text_from_outside(),
            ]
            if sent:
                yield Need(_name(host), _sends(_name(host), self._origins[_name(host)], sent, address))
        for backend in settings.named.values():
            yield from self._host_of(backend, address if is_folders else None)

    def _host_of(self, backend: NamedBackend, provider: str | None) -> Iterator[Need]:
        """Yield why one named backend needs trust; `provider` is the provider's address if only the folder names it."""
        from .named_backends import key_of

        address = provider
        if backend.base_url is not None:
            names_it = has_own_config(self._settings) and self._is_only_the_folders(backend.base_url)
            address = backend.base_url if names_it else None
        if address is None or backend.kind == "python":
            return
        if backend.api_key_env is not None and key_of(backend.api_key_env, self._settings) is None:
            return  # nothing is sent without the key
        sent = [
            *_set_variables(backend.api_key_env or "", *SDK_VARIABLES.get(backend.kind, ())),
            *self._inserted(),
            *self._text_from_outside(),
        ]
        if sent:
            place = str(self._settings.config_file)
            yield Need(f"backends.{backend.name}", _sends(f"[backends.{backend.name}]", place, sent, address))

    def _is_only_the_folders(self, address: str) -> bool:
        """Return whether neither a default nor a variable of the environment names the host as well."""
        from .named_backends import ANTHROPIC_BASE_URL
        from .openai import Client

        known = [Client().endpoint, ANTHROPIC_BASE_URL]
        known += [each for name in ("OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT") if (each := os.environ.get(name))]
        return _host(address) not in {_host(each) for each in known}

    def _text_from_outside(self) -> list[str]:
        """Return whether conversations would be sent that are not the folder's own, as a list of at most one text."""
        place = self._place
        if place is None:
            return []
        is_own = "db" in self._own if place.file is None else inside(self.folder, place.file)
        return [] if is_own else ["conversations of a database that is not the folder's"]

    def _inserted(self) -> list[str]:
        """Return whether `.env` inserts variables of the environment (`${NAME}`), as a list of at most one text."""
        return ["variables of the environment that .env inserts"] if inserts_variables(self._settings) else []

    # Secrets of tools

    def _secrets(self) -> Iterator[Need]:
        """Yield why secrets of the environment need trust: the folder has a part in where they are sent."""
        from threadledger.domain.conversation.tool_secrets import VARIABLE

        from .named_backends import key_of

        of_profile = self._profile_secrets if self._own_profile is not None else []
        inserted = self._inserted()
        for name in sorted({*self._profile_secrets, *self._recorded_secrets}):
            decides = "profile" if name in of_profile else "host" if self._names_host() else "database"
            if decides == "database" and not self._has_own_database():
                continue
            sent = _set_variables(f"{VARIABLE}{name}") or inserted
            if sent and key_of(f"{VARIABLE}{name}", self._settings) is not None:
                yield Need(_name("profile"), f"its {decides} chooses where to send {sent[0]}")

    def _has_own_database(self) -> bool:
        """Return whether the database is the folder's: a rerun sends what is recorded there."""
        place = self._place
        return "db" in self._own or (place is not None and place.file is not None and inside(self.folder, place.file))

    @cached_property
    def _own_profile(self) -> Path | None:
        """Return the path of the profile if the folder chooses it."""
        if self._settings.profile is not None:
            return self._settings.profile if "profile" in self._own else None
        return DEFAULT_PROFILE if DEFAULT_PROFILE.is_file() else None

    @cached_property
    def _profile_secrets(self) -> list[str]:
        """Return the names of secrets in the configured profile; none if it cannot be read, which opening it reports."""
        from threadledger.domain.conversation.tool_secrets import secret_names

        with suppress(InvalidProfile, FileMissing):  # opening reports it
            profile = self._settings.load_profile()
            return secret_names(profile.tools) if '"secret"' in profile.tools_json else []
        return []

    # Code

    def _code(self) -> Iterator[Need]:
        for name, setting in self._named_code():
            place = self._place_of_code(setting)
            if self._is_folders_code(name, setting):
                yield Need(setting, f"{setting} ({place}) names code of the folder ({name})")
            elif setting == _name("tools") and self._chooses_calls():
                yield Need(setting, f"the folder decides how the functions of {setting} ({place}) are called")

    def _named_code(self) -> Iterator[tuple[str, str]]:
        """Yield the module or file of each setting that names code, with the setting."""
        if self._settings.tools:
            yield self._settings.tools, _name("tools")
        for backend in self._settings.named.values():
            if backend.function is not None:
                yield backend.function.partition(":")[0], f"backends.{backend.name}"

    def _place_of_code(self, setting: str) -> str:
        return self._origins[setting] if setting == _name("tools") else str(self._settings.config_file)

    def _is_folders_code(self, name: str, setting: str) -> bool:
        """Return whether the folder names the code, or holds it under a name that is not an absolute path."""
        if "tools" in self._own if setting == _name("tools") else has_own_config(self._settings):
            return True
        if name.endswith(".py"):
            return not Path(name).is_absolute()
        from .tool_loading import module_files

        return any(map(self._holds, module_files(name)))

    def _code_files(self, name: str, setting: str) -> list[Path]:
        """Return the files of code that the folder holds, and the file that it names elsewhere."""
        if not self._is_folders_code(name, setting):
            return []
        if name.endswith(".py"):
            return [self.folder / name]
        from .tool_loading import module_files

        return list(filter(self._holds, module_files(name)))

    def _holds(self, path: Path) -> bool:
        """Return whether the folder has a file, or a symbolic link to it."""
        return path.is_relative_to(self.folder) or inside(self.folder, path)

    def _chooses_calls(self) -> bool:
        """Return whether the folder chooses the callable functions (its profile) or the host that calls them."""
        return self._own_profile is not None or self._names_host()

    def _names_host(self) -> bool:
        """Return whether the folder alone names the host of a provider."""
        addresses = [
            *(getattr(self._settings, key) for key in ("openai_base_url", "azure_openai_endpoint") if key in self._own),
            *(each.base_url for each in self._settings.named.values() if has_own_config(self._settings)),
        ]
        return any(self._is_only_the_folders(each) for each in addresses if each is not None)


def trusted_places() -> tuple[Path, ...]:
    """Return the folders that the environment trusts, with those below them.

    Raises:
        InvalidSettings: one of them is not an absolute path, or there are only separators.
    """
    text = os.environ.get(TRUST_DIR, "")
    given = [each for each in text.split(os.pathsep) if each]
    relative = next((each for each in given or [text] if each and not Path(each).is_absolute()), None)
    if relative is not None:
        raise InvalidSettings(f"{TRUST_DIR} cannot be used ({relative!r} is not an absolute path): give absolute paths")
    return tuple(Path(each).resolve() for each in given)


def trust_file(path: Path, content: bytes) -> None:
    """Record trust in one file that a command wrote into the working folder; other files of the folder keep their state.

    Raises:
        InvalidSettings: the record cannot be written.
    """
    folder = Path.cwd()
    _write(folder, {**(_recorded_files(folder) or {}), str(folder / path): _digest(content)})


def revoke(folder: Path) -> bool:
    """Remove the trust in a folder, and return whether it was trusted.

    Raises:
        InvalidSettings: the record cannot be deleted.
    """
    try:
        _record(folder).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InvalidSettings(f"{_record(folder)} cannot be deleted ({error.strerror}): delete it yourself") from error
    return True


def _record(folder: Path) -> Path:
    """Return the file that records the trust in a folder.

    Raises:
        InvalidSettings: the user has no home folder.
    """
    given = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        base = Path(given) if Path(given).is_absolute() else Path.home() / ".config"
    except RuntimeError:
        raise InvalidSettings(f"there is no home folder to record trust in: set {TRUST_DIR} instead") from None
    return base / "threadledger" / "trust" / f"{_digest(os.fsencode(folder))}.json"


def _recorded_files(folder: Path) -> Mapping[str, str] | None:
    with suppress(OSError, ValueError, InvalidSettings):  # an unreadable record is none: trust is asked for again
        found: Any = json.loads(_record(folder).read_bytes())
        if isinstance(found, dict) and found.get("folder") == str(folder) and isinstance(found.get("files"), dict):
            return dict(found["files"])
    return None


def _write(folder: Path, files: Mapping[str, str]) -> None:
    path = _record(folder)
    text = json.dumps({"folder": str(folder), "trusted_at": to_iso(now()), "files": files}, indent=2)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with private_file(path, overwrite=True) as file:
            file.write(f"{text}\n")
    except OSError as error:
        raise InvalidSettings(
            f"the trust in {folder} cannot be recorded ({path.parent}: {error.strerror}): correct its permissions, or set "
            f"{TRUST_DIR}"
        ) from error


def _has_postgres_password() -> bool:
    with suppress(RuntimeError):  # the home of an unknown user
        if (Path.home() / ".pgpass").exists():
            return True
    return bool(_set_variables(*POSTGRES_PASSWORDS))


def _host(address: str) -> str:
    """Return scheme, host and port of an address, without user and password."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "an address that is not valid"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()


def _place_or_none(url: str | None) -> DatabasePlace | None:
    """Return where a database is; None without a URL, or if it is not valid, which opening it reports."""
    with suppress(InvalidSettings):
        return database_place(url) if url is not None else None
    return None


def _place_of(address: str) -> str:
    """Return an address as it is shown: without its user and password, and without a query."""
    begin, separator, rest = address.partition("?")[0].rpartition("@")
    return f"{begin.partition('://')[0]}://{rest}" if separator and "://" in begin else f"{begin}{separator}{rest}"


def _sends(setting: str, place: str, sent: Sequence[str], address: str) -> str:
    return f"{setting} ({place}) sends {sent[0]} to {_host(address)}"


def _set_variables(*names: str) -> list[str]:
    return [f"{name} of the environment" for name in names if os.environ.get(name)]


def _name(key: str) -> str:
    return Settings.fields[key].name


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _read(path: Path, raw: bytes | None) -> bytes | None:
    """Return the bytes of a file that was not read before; None if it cannot be read, so that nothing of it is used."""
    if raw is not None:
        return raw
    try:
        return read_named_file(path)
    except (OSError, ValueError):
        return None


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
