"""Parts that installed packages bring, found by name through entry points; nothing is imported before it is chosen."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from xp.errors import UserError, did_you_mean, join_names

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@cache
def entries(group: str) -> "dict[str, EntryPoint]":
    """{name: entry point} of an entry-point group; read once a process."""
    from importlib import metadata  # a twentieth of xp's start: not before somebody asks

    return {entry.name: entry for entry in metadata.entry_points(group=group)}


def load_plugin(group: str, name: str, key: str) -> Any:
    """What an installed package calls `name` in an entry-point group.

    Args:
        group: the entry-point group, as `xp.suites`.
        name: the entry's name.
        key: the configuration key that chose it, for the message.

    Raises:
        UserError: no installed package brings it; says which names there are.
    """
    found = entries(group)
    if name not in found:
        raise UserError(
            f"{key}={name}: no installed package has it{did_you_mean(str(name), found)}. "
            f"Installed: {join_names(sorted(found))}. Packages add more through the entry-point group {group}."
        )
    return found[name].load()


def make_plugin(group: str, name: str, settings: Mapping[str, Any], *, key: str, prefix: str) -> Any:
    """What `load_plugin` finds, called with `settings`.

    Args:
        group: as in `load_plugin`.
        name: as in `load_plugin`.
        settings: keyword arguments.
        key: as in `load_plugin`.
        prefix: what stands before a setting's name in the configuration, as `env.`.

    Raises:
        UserError: there is nothing of that name, or it has no such setting; or as the call raises.
    """
    return call_with(load_plugin(group, name, key), name, settings, key=key, prefix=prefix)


def call_with(made: Callable[..., Any], name: str, settings: Mapping[str, Any], *, key: str, prefix: str) -> Any:
    """`made`, which a package offers as `name`, called with `settings`; arguments and errors as of `make_plugin`."""
    takes = inspect.signature(made).parameters
    unknown = [each for each in settings if each not in takes]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        raise UserError(
            f"{prefix}{unknown[0]}: {key}={name} has no such setting{did_you_mean(unknown[0], takes)}. "
            f"Its settings: {join_names(takes)}"
        )
    return made(**settings)
