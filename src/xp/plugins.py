# pyright: strict
"""Parts found by name: xp's own and those that installed packages bring through entry points.

Nothing is imported before it is chosen. This is the one place that asks for entry points: model families, suites,
dataset formats, merge methods and executors are all found here.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from xp.errors import UserError, did_you_mean, join_names
from xp.own_parts import OWN_PARTS
from xp.versions import DISTRIBUTION

if TYPE_CHECKING:
    from importlib import metadata


@dataclass(frozen=True)
class Entry:
    """A part on offer: its name in an entry-point group, and where it is."""

    group: str
    name: str
    value: str
    """MODULE:ATTRIBUTE."""
    distributions: tuple[str, ...]
    """The distributions that offer something under this name; more than one is refused when it is chosen."""

    def refuse_contested(self) -> None:
        """Make sure that one distribution alone offers this name.

        Raises:
            UserError: two do; names them.
        """
        if len(self.distributions) > 1:
            raise UserError(
                f"'{self.name}' of the entry-point group {self.group} is offered by the packages "
                f"{join_names(self.distributions)}: expected one. Uninstall all but one of them, or let a package "
                "offer it under another name."
            )

    def load(self) -> object:
        """Import the module and give the attribute.

        Raises:
            UserError: two distributions offer this name, or that of another distribution cannot be imported.
        """
        self.refuse_contested()
        if self.distributions == (DISTRIBUTION,):
            return self._imported()
        try:
            return self._imported()
        except UserError:
            raise
        except Exception as error:  # a package of others may fail in any way while it is imported
            raise UserError(
                f"'{self.name}' of the entry-point group {self.group} cannot be imported ({self.value} of the package "
                f"{self.distributions[0]}): {type(error).__name__}: {error}. Install that package again with all that "
                "it needs, or uninstall it."
            ) from error

    def _imported(self) -> object:
        from importlib import import_module

        module, _, attributes = self.value.partition(":")
        found: object = import_module(module)
        for attribute in filter(None, attributes.split(".")):
            found = getattr(found, attribute)
        return found


def declared(group: str) -> list[Entry]:
    """What the metadata of all installed distributions but xp's own offer in an entry-point group."""
    return [each for each in _declared() if each.group == group]


@cache
def _declared() -> tuple[Entry, ...]:
    from importlib import metadata  # a twentieth of xp's start: not before somebody asks

    @cache
    def name_of(distribution: metadata.Distribution | None) -> str:  # parses the metadata, each time that it is asked
        return distribution.name if distribution else "(unknown)"

    found = [each for each in metadata.entry_points() if each.group.startswith("xp.")]
    others = [each for each in found if not (_is_own(each) or _normalised(name_of(each.dist)) == DISTRIBUTION)]
    return tuple(Entry(each.group, each.name, each.value, (name_of(each.dist),)) for each in others)


def read_again() -> None:
    """Forget which packages are installed; the next question reads their metadata."""
    _declared.cache_clear()
    entries.cache_clear()


@cache
def entries(group: str) -> dict[str, Entry]:
    """{name: entry} of an entry-point group, xp's own first; read once a process."""
    found = {name: Entry(group, name, value, (DISTRIBUTION,)) for name, value in OWN_PARTS.get(group, {}).items()}
    for each in declared(group):
        before = found.get(each.name)
        more = tuple(name for name in each.distributions if before and name not in before.distributions)
        found[each.name] = Entry(group, each.name, each.value, before.distributions + more) if before else each
    return found


def find_entry(group: str, name: str, key: str) -> Entry:
    """The entry of a name in an entry-point group, which is not imported.

    Args:
        group: the entry-point group, as `xp.suites`.
        name: the entry's name.
        key: the configuration key that chose it, for the message.

    Raises:
        UserError: no installed package offers it (says which names there are), or two do.
    """
    found = entries(group)
    if name not in found:
        raise UserError(
            f"{key}={name}: no installed package has it{did_you_mean(str(name), found)}. "
            f"Installed: {join_names(sorted(found))}. Packages add more through the entry-point group {group}."
        )
    found[name].refuse_contested()
    return found[name]


def load_plugin[Kind](group: str, name: str, key: str, kind: type[Kind] = object) -> Kind:
    """The part that an entry names; arguments as in `find_entry`.

    Raises:
        UserError: as `find_entry`; or the part is no instance of `kind`.
    """
    return _checked(find_entry(group, name, key), kind)


def load_all[Kind](group: str, kind: type[Kind]) -> dict[str, Kind]:
    """{name: part} of all parts of a group.

    Raises:
        UserError: two packages offer one name, or a part is no instance of `kind`.
    """
    return {name: _checked(entry, kind) for name, entry in entries(group).items()}


def make_plugin[Kind](
    group: str, name: str, settings: Mapping[str, object], *, key: str, prefix: str, kind: type[Kind] = object
) -> Kind:
    """The part that an entry names, called with `settings`.

    Args:
        group: as in `find_entry`.
        name: as in `find_entry`.
        settings: keyword arguments.
        key: as in `find_entry`.
        prefix: what stands before a setting's name in the configuration, as `env.`.
        kind: what the call must give an instance of.

    Raises:
        UserError: there is nothing of that name, it has no such setting, or the call gives something of another kind;
            or as the call raises.
    """
    entry = find_entry(group, name, key)
    part = entry.load()
    if not callable(part):
        raise UserError(
            f"The entry point '{name}' of {group} gives a {type(part).__name__}: expected a class or function."
        )
    takes = inspect.signature(part).parameters
    unknown = [each for each in settings if each not in takes]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        raise UserError(
            f"{prefix}{unknown[0]}: {key}={name} has no such setting{did_you_mean(unknown[0], takes)}. "
            f"Its settings: {join_names(takes)}"
        )
    made = part(**settings)
    if not isinstance(made, kind):
        raise _unfit(entry, made, kind)
    return made


def _checked[Kind](entry: Entry, kind: type[Kind]) -> Kind:
    part = entry.load()
    if not isinstance(part, kind):
        raise _unfit(entry, part, kind)
    return part


def _unfit(entry: Entry, part: object, kind: type) -> UserError:
    return UserError(
        f"The entry point '{entry.name}' of {entry.group} (package {entry.distributions[0]}) gives a "
        f"{type(part).__name__}, which is no {kind.__name__}. Let its class inherit from "
        f"{kind.__module__}.{kind.__qualname__}."
    )


def _is_own(entry: "metadata.EntryPoint") -> bool:
    """Whether an entry leads into xp, as those of an older xp do whose distribution had another name."""
    return entry.value.startswith("xp.") or entry.value == OWN_PARTS.get(entry.group, {}).get(entry.name)


def _normalised(distribution: str) -> str:
    """A distribution's name as indexes compare names."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
