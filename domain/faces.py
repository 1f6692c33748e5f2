"""Load a package's public names on first use, so that an import of one name does not load the whole package."""

import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from operator import attrgetter
from typing import Any


def lazy_face(room: str, *homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that imports each name from its home when the name is first used.

    Args:
        room: full name of the package, its `__name__`.
        homes: mappings of a module, relative to the package, to the names that it provides, separated by spaces.
            `earlier=now` is a name that earlier versions used, and `name=` is the module itself.
    """
    home_of = {
        name.partition("=")[0]: (home, name.rpartition("=")[2])
        for part in homes
        for home, names in part.items()
        for name in names.split()
    }

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        home, current = home_of[name]
        module = import_module(f".{home}", room)
        value = attrgetter(current)(module) if current else module
        setattr(sys.modules[room], name, value)
        return value

    return load


def on_first_use(caller: str, module: str, name: str) -> Callable[[], Any]:
    """Return a function that imports a name of a module in the caller's room when it is first called, and returns it.

    It is for code that runs often: an import statement in a function takes up to 3 µs each time.
    """
    return cache(lambda: getattr(import_module(f"{caller.rpartition('.')[0]}.{module}"), name))
