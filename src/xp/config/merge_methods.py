"""Which merge methods are installed, and which configuration keys each has; only the method named is loaded.

Packages offer methods through the entry-point group `xp.merge_methods`: each entry is called as its method, and leads
to an object with a table of options (`xp.merging.method.MergeMethod`) in a module that imports nothing heavy.
"""

from collections.abc import Iterator, Mapping
from dataclasses import field, make_dataclass
from functools import cache
from typing import Protocol, runtime_checkable

from xp.config.method_options import Option
from xp.errors import UserError, did_you_mean, join_names
from xp.plugins import entries, load_plugin

GROUP = "xp.merge_methods"
NONE = "none"
"""The option of the group `merge_method` with which nothing is merged."""


@runtime_checkable
class HasOptions(Protocol):
    """What a configuration needs to know of a merge method."""

    @property
    def options(self) -> Mapping[str, Option]:
        """Its own keys, and what they may be."""
        ...


def merge_method_names() -> list[str]:
    """Names of the installed methods, sorted."""
    return sorted(entries(GROUP))


def load_merge_method(name: str) -> HasOptions:
    """What an installed package offers as merge method `name`.

    Raises:
        UserError: there is none of that name, two packages offer it, or it has no options.
    """
    names = merge_method_names()
    if name not in names:
        raise UserError(
            f"merge_method={name}: allowed are {join_names(names)}{did_you_mean(name, names)}. Packages add more "
            f"through the entry-point group {GROUP}."
        )
    return load_plugin(GROUP, name, "merge_method", HasOptions)


class MergeMethodSections(Mapping[str, type]):
    """{name: dataclass of the section `merge_method`}, each made from the method's options when it is asked for."""

    def __getitem__(self, name: str) -> type:
        """The section of a method.

        Raises:
            UserError: there is no method of that name.
        """
        return _section(name)

    def __iter__(self) -> Iterator[str]:
        return iter((NONE, *merge_method_names()))

    def __len__(self) -> int:
        return len(merge_method_names()) + 1


@cache
def _section(name: str) -> type:
    options = {} if name == NONE else load_merge_method(name).options
    fields = []
    for key, option in options.items():
        kind, bounds = option.field()
        fields.append((key, kind, field(default=None, metadata=bounds)))
    return make_dataclass("MergeMethod", [("name", str), *fields])
