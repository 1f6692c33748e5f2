"""The functions of the profile's tools, from a module that a setting names: how the command line has them bound."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from threadledger.domain import InvalidSettings, Profile, ToolFunction, redact

SETTING = "THREADLEDGER_TOOLS"
FILE_MODULE = "threadledger_tools"
"""Under which name a file of tools is imported; its own name may be another module's."""


def load_tools(name: str, profile: Profile, *, bound: Collection[str] = ()) -> dict[str, ToolFunction]:
    """The profile's functions by their names, from a module: `name` is its name, or the path of a `.py` file.

    Importing it runs its code. What the app has `bound` already is not asked of it. An `async def` is a function too.

    Raises:
        InvalidSettings: there is no such module, it cannot be imported, or it lacks a function of the profile.
    """
    module = _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
    found = {}
    for wanted in _functions(profile):
        if wanted in bound:
            continue
        function = getattr(module, wanted, None)
        if not callable(function):
            lack = "no function" if function is None else "no function, but something else, under the name"
            raise InvalidSettings(
                f"{SETTING}: {name} has {lack} {wanted!r}, which the profile names: write it, or take it out of the profile"
            )
        found[wanted] = function
    return found


def _functions(profile: Profile) -> list[str]:
    return [tool["function"]["name"] for tool in profile.tools if tool["type"] == "function"]


def _import_module(name: str) -> ModuleType:
    """An installed module, or one of the working directory, which a console script does not look into by itself."""
    _look_into(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise InvalidSettings(
                f"{SETTING}: there is no module {name!r}: give a module's name, or the path of a .py file"
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidSettings(f"{SETTING}: there is no file {path}: give the path of a .py file, or a module's name")
    _look_into(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(FILE_MODULE, path)
    if spec is None or spec.loader is None:
        raise InvalidSettings(f"{SETTING}: {path} is no Python file: give the path of a .py file, or a module's name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[FILE_MODULE] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[FILE_MODULE]
        raise _broken(str(path), error) from error
    return module


def _look_into(folder: Path) -> None:
    """Modules are looked for in this folder too, and there last: a file of the user's must not stand in for a library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _broken(name: str, error: BaseException) -> InvalidSettings:
    told = " ".join(redact(f"{type(error).__name__}: {error}").split())
    return InvalidSettings(f"{SETTING}: {name} cannot be imported ({told}): mend it, or name another module")
