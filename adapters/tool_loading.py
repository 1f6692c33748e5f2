"""Load the functions of the profile's tools from the module named by a setting; the command line binds them this way.

Importing a module runs its code, so it is imported when a model is about to be run (`ModuleTools`). `problem_of_tools` and
`problem_of_function` look for the functions in the source and run nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import symtable
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.errors import InvalidSettings
from threadledger.domain.exchange import ToolFunction
from threadledger.domain.failures import redact

from .settings import read_named_file

SETTING = "THREADLEDGER_TOOLS"
NOT_A_FUNCTION = "something other than a function named"
FILE_MODULE = "threadledger_tools"
"""Module name under which a tools file is imported; the file's own name may clash with another module."""


class ModuleTools(Mapping[str, ToolFunction]):
    """Provide the app's functions and those of a module, which is imported when one of them is first used."""

    def __init__(self, name: str, profile: Profile, given: Mapping[str, ToolFunction]) -> None:
        self._name, self._profile, self._given = name, profile, given
        self._loaded: dict[str, ToolFunction] | None = None
        self._loading = Lock()

    def load(self, sources: Mapping[Path, bytes] | None = None) -> Mapping[str, ToolFunction]:
        """Import the module unless it is imported, and return all functions; see `load_tools`.

        Raises:
            InvalidSettings: the module cannot be used.
        """
        with self._loading:
            if self._loaded is None:
                found = load_tools(self._name, self._profile, bound=self._given, sources=sources)
                self._loaded = {**found, **self._given}
            return self._loaded

    def __getitem__(self, name: str) -> ToolFunction:
        return self.load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.load())

    def __len__(self) -> int:
        return len(self.load())


def load_tools(
    name: str, profile: Profile, *, bound: Collection[str] = (), sources: Mapping[Path, bytes] | None = None
) -> dict[str, ToolFunction]:
    """Import a module and return the profile's functions from it, by name.

    Importing the module runs its code. Asynchronous functions are accepted.

    Args:
        name: a module name, or the path of a `.py` file.
        profile: the profile whose functions are required.
        bound: names of functions that the app provides itself; they need not be in the module.
        sources: contents of files that were checked; these are run instead of what the files hold by now.

    Raises:
        InvalidSettings: the module does not exist, cannot be imported, or does not define a required function.
    """
    is_file = name.endswith(".py")
    module = _import_file(Path(name), sources or {}) if is_file else _import_module(name)
    found = {}
    for wanted in _functions(profile):
        if wanted in bound:
            continue
        function = getattr(module, wanted, None)
        if not callable(function):
            raise InvalidSettings(_lacks(name, wanted, "no function" if function is None else NOT_A_FUNCTION))
        found[wanted] = function
    return found


def load_function(name: str, setting: str) -> Callable[..., Any]:
    """Import the module of `module:function` and return the function. Importing the module runs its code.

    Raises:
        InvalidSettings: the module does not exist, cannot be imported, or has no such function.
    """
    module_name, _, wanted = name.partition(":")
    function: Callable[..., Any] | None = getattr(_import_module(module_name, setting), wanted, None)
    if not callable(function):
        raise InvalidSettings(_no_function(module_name, wanted, setting))
    return function


def problem_of_tools(name: str, profile: Profile) -> str | None:
    """Return why the profile's functions cannot be loaded from a module or file, or None; nothing is imported."""
    problem, defined = _defined_in([Path(name)] if name.endswith(".py") else module_files(name), name, SETTING)
    missing = [] if defined is None else [wanted for wanted in _functions(profile) if wanted not in defined]
    return problem or (_lacks(name, missing[0], "no function") if missing else None)


def problem_of_function(name: str, setting: str) -> str | None:
    """Return why the function of `module:function` cannot be loaded, or None; nothing is imported."""
    module, _, wanted = name.partition(":")
    problem, defined = _defined_in(module_files(module), module, setting)
    return problem or (_no_function(module, wanted, setting) if defined is not None and wanted not in defined else None)


def module_files(name: str) -> list[Path]:
    """Return the source files that importing a module would run, in order, or none if there is no such module.

    Installed modules come before those of the working folder, as in an import. Nothing is imported.
    """
    found, places = list[Path](), [*sys.path, str(Path.cwd())]
    parts = name.split(".")
    for number in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: number + 1]), places)
        if spec is None:
            return []
        found += [Path(spec.origin)] if spec.has_location and spec.origin is not None else []
        places = list(spec.submodule_search_locations or ())
    return found


def _defined_in(files: list[Path], name: str, setting: str) -> tuple[str | None, set[str] | None]:
    """Return why a module cannot be imported, and the names that its source defines; None if only running it shows them."""
    if not files and name not in sys.builtin_module_names:
        return _no_module(name, setting), None
    try:
        source = read_named_file(files[-1]) if files and files[-1].suffix == ".py" else None
        if source is None:
            return None, None
        text = importlib.util.decode_source(source)
        symbols = symtable.symtable(text, str(files[-1]), "exec").get_symbols()
    except FileNotFoundError:
        return _no_file(files[-1]), None
    except (OSError, SyntaxError, ValueError) as error:
        return str(_broken(name, error, setting)), None
    defined = {each.get_name() for each in symbols if each.is_assigned() or each.is_imported() or each.is_namespace()}
    return None, None if "__getattr__" in defined or "import *" in text else defined


def _lacks(name: str, wanted: str, lack: str) -> str:
    return (
        f"{SETTING}: {name} has {lack} {wanted!r}, which the profile requires: define it, or remove it from the profile"
    )


def _no_function(module: str, wanted: str, setting: str) -> str:
    return f"{setting}: {module} has no function {wanted!r}: define it, or name another one"


def _no_module(name: str, setting: str) -> str:
    instead = ", or the path of a .py file" if setting == SETTING else ""
    return f"{setting}: there is no module {name!r}: give a module's name{instead}"


def _no_file(path: Path) -> str:
    return f"{SETTING}: there is no file {path}: give the path of a .py file, or a module's name"


def _functions(profile: Profile) -> list[str]:
    return [tool["function"]["name"] for tool in profile.tools if tool["type"] == "function"]


def _import_module(name: str, setting: str = SETTING) -> ModuleType:
    """Import an installed module or one from the working directory, which is not on a console script's path."""
    if not _is_installed(name.partition(".")[0]):
        _look_into(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise InvalidSettings(_no_module(name, setting)) from error
        raise _broken(name, error, setting) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error, setting) from error


def _is_installed(name: str) -> bool:
    """Return whether a top-level module is found without the working folder; nothing is imported."""
    with suppress(ImportError, ValueError):  # a parent or a spec is missing: it is not installed
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.loader is not None
    return False


class _CheckedSource(SourceFileLoader):
    """Load a file from bytes that were checked, and never from a cache of compiled code next to it."""

    source = b""

    def get_data(self, path: str) -> bytes:
        return self.source if path == self.path else super().get_data(path)

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError(f"no cache is used for {path}")


class _CheckedFiles(MetaPathFinder):
    """Find the modules whose files were checked, and load them from the bytes that were checked."""

    def __init__(self, sources: Mapping[Path, bytes]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        source = self._sources.get(Path(spec.origin)) if spec is not None and spec.origin is not None else None
        if spec is None or spec.origin is None or source is None or not spec.origin.endswith(".py"):
            return None
        loader = _CheckedSource(fullname, spec.origin)
        loader.source, spec.loader = source, loader
        return spec


def load_from(sources: Mapping[Path, bytes]) -> None:
    """Load the modules of these files from these contents from now on, whatever the files hold by then."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _CheckedFiles)]
    if sources:
        sys.meta_path.insert(0, _CheckedFiles(sources))


def _import_file(path: Path, sources: Mapping[Path, bytes]) -> ModuleType:
    if not path.is_file():
        raise InvalidSettings(_no_file(path))
    _look_into(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(FILE_MODULE, path)
    source = sources.get(Path.cwd() / path)
    if source is not None:
        loader = _CheckedSource(FILE_MODULE, str(path))
        loader.source = source
        spec = importlib.util.spec_from_file_location(FILE_MODULE, path, loader=loader)
    if spec is None or spec.loader is None:
        raise InvalidSettings(
            f"{SETTING}: {path} is not a Python file: pass the path of a .py file, or a module's name"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[FILE_MODULE] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[FILE_MODULE]
        raise _broken(str(path), error) from error
    return module


def _look_into(folder: Path) -> None:
    """Add a folder to the end of the module search path, so that a user's file cannot shadow a library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _broken(name: str, error: BaseException, setting: str = SETTING) -> InvalidSettings:
    reason = " ".join(redact(f"{type(error).__name__}: {error}").split())
    return InvalidSettings(f"{setting}: {name} cannot be imported ({reason}): fix it, or name another module")
