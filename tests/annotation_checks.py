"""How annotations are checked in the tests: by beartype, with what it does not do by itself.

An int is a float too, as PEP 484 has it. Recursive type aliases (`type Tree[Leaf] = Mapping[str, Leaf | Tree[Leaf]]`)
are checked at every depth: beartype 0.23 expands such an alias twice and takes what is below for wrong.
"""

import types
from collections.abc import Callable
from functools import cache, reduce
from operator import or_
from typing import Any, TypeAliasType, Union, get_args, get_origin

from beartype import BeartypeConf, beartype
from beartype.door import is_bearable

CONF = BeartypeConf(is_pep484_tower=True)


def check[F: Callable[..., Any]](function: F) -> F:
    """The function with its arguments and result checked in every call."""
    function.__annotations__ = {name: checkable(hint) for name, hint in function.__annotations__.items()}
    return beartype(conf=CONF)(function)


def checkable(hint: Any) -> Any:
    """A type hint in which a class stands for every alias, wherever it is in the hint."""
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, TypeAliasType) or isinstance(origin, TypeAliasType):
        return _class_of(hint)
    if origin in (Union, types.UnionType):
        return reduce(or_, map(checkable, parts))
    if isinstance(hint, types.GenericAlias) and all(not isinstance(part, list) for part in parts):
        return origin[tuple(map(checkable, parts))]
    return hint


class _Alias(type):
    """A class whose instances are the values that an alias allows. beartype tells hints apart by their text, so each
    has a name of its own."""

    hint: Any

    def __instancecheck__(cls, value: object) -> bool:
        if value is None:  # beartype tries every class on it while it reads a hint, where it cannot be asked itself
            return _allows_none(cls.hint)
        return is_bearable(value, _meaning(cls.hint), conf=CONF)


@cache
def _class_of(hint: Any) -> type:
    return _Alias(f"{hint} (alias {_class_of.cache_info().misses})", (), {"hint": hint})


@cache
def _meaning(hint: Any) -> Any:
    """What an alias stands for, one level deep; names that only a type checker imports stand for anything."""
    alias = hint if isinstance(hint, TypeAliasType) else get_origin(hint)
    try:
        meaning = alias.__value__
    except NameError:
        return object
    return checkable(meaning if alias is hint else meaning[get_args(hint)])


def _allows_none(hint: Any) -> bool:
    if isinstance(hint, _Alias):
        return _allows_none(_meaning(hint.hint))
    if isinstance(hint, TypeAliasType) or isinstance(get_origin(hint), TypeAliasType):
        return _allows_none(_meaning(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(_allows_none, get_args(hint)))
    return hint in (None, types.NoneType, object, Any)
