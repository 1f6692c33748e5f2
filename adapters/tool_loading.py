"""Load the functions of the profile's tools from the module named by a setting; the command line binds them this way."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from threadledger.domain.conversation import Profile
from threadledger.domain.errors import InvalidSettings
from threadledger.domain.exchange import ToolFunction
from threadledger.domain.failures import redact

SETTING = "THREADLEDGER_TOOLS"
FILE_MODULE = "threadledger_tools"
"""Module name under which a tools file is imported; the file's own name may clash with another module."""


def load_tools(name: str, profile: Profile, *, bound: Collection[str] = ()) -> dict[str, ToolFunction]:
    """Import a module and return the profile's functions from it, by name.

    Importing the module runs its code. Asynchronous functions are accepted.

    Args:
        name: a module name, or the path of a `.py` file.
        profile: the profile whose functions are required.
        bound: names of functions that the app provides itself; they need not be in the module.

    Raises:
        InvalidSettings: the module does not exist, cannot be imported, or does not define a required function.
    """
    module = _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
    found = {}
    for wanted in _functions(profile):
        if wanted in bound:
            continue
        function = getattr(module, wanted, None)
        if not callable(function):
            lack = "no function" if function is None else "something other than a function named"
            raise InvalidSettings(
                f"{SETTING}: {name} has {lack} {wanted!r}, which the profile requires: define it, or remove it from the profile"
            )
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
        raise InvalidSettings(f"{setting}: {module_name} has no function {wanted!r}: define it, or name another one")
    return function


def _functions(profile: Profile) -> list[str]:
    return [tool["function"]["name"] for tool in profile.tools if tool["type"] == "function"]


def _import_module(name: str, setting: str = SETTING) -> ModuleType:
    """Import an installed module or one from the working directory, which is not on a console script's path."""
    _look_into(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise InvalidSettings(
                f"{setting}: there is no module {name!r}: give a module's name"
                + (", or the path of a .py file" if setting == SETTING else "")
            ) from error
        raise _broken(name, error, setting) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error, setting) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidSettings(f"{SETTING}: there is no file {path}: give the path of a .py file, or a module's name")
    _look_into(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(FILE_MODULE, path)
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
