"""Check the arguments of public methods by their annotations when they are called; `arguments.py` says what these allow."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar, cast

T = TypeVar("T")

CO_COROUTINE = 0x80
"""Flag of the code of an `async def`: the value of `inspect.CO_COROUTINE`, without loading that module."""

EASY = 2**31
"""Greatest whole number that every database stores, and that is not checked any further."""

NOTHING: frozenset[type] = frozenset()


def checked(*but: str) -> Callable[[type[T]], type[T]]:
    """Return a decorator of a class whose public methods check their arguments, `but` for those that do it themselves."""

    def decorate(decorated: type[T]) -> type[T]:
        for name, method in [*vars(decorated).items()]:
            if isinstance(method, FunctionType) and not name.startswith("_") and name not in but:
                setattr(decorated, name, _checking(method))
        return decorated

    return decorate


def _checking(method: FunctionType) -> Callable[..., Any]:
    """Return a method that checks its arguments before it does its work."""
    plain: Any = method
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    code = plain.__code__
    names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    annotations = {name: plain.__annotations__[name] for name in names}
    if not names or hasattr(method, "checks_arguments"):  # such as one that does the work of a method that checks them
        return method

    easy: dict[str, frozenset[type] | None] = {}
    """Types of each parameter whose values need no further check, None for all; empty before the first check."""

    def checked_arguments(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        given = dict(zip(names, args[1:], strict=False)) if len(args) > 1 else {}
        given.update(named)
        for name, value in given.items():
            kinds = easy.get(name, NOTHING)
            if kinds is not None and (value.__class__ not in kinds or (value.__class__ is int and abs(value) > EASY)):
                break
        else:
            return args
        from .arguments import check, easy_types

        checked = check(annotations, given)
        easy.update((name, easy_types(name, annotations)) for name in names)
        named.update((name, checked[name]) for name in named)
        return (*args[:1], *(checked[name] for name in names[: len(args) - 1]), *args[len(names) + 1 :])

    @wraps(method)
    def checking(*args: Any, **named: Any) -> Any:
        return method(*checked_arguments(args, named), **named)

    @wraps(method)
    async def checking_later(*args: Any, **named: Any) -> Any:
        return await method(*checked_arguments(args, named), **named)

    chosen: Any = checking_later if method.__code__.co_flags & CO_COROUTINE else checking
    chosen.checks_arguments = True
    return cast("Callable[..., Any]", chosen)
