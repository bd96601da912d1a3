"""Facts about a dataset that checks need before anything heavy is imported; and which tasks are meant.

The formats of datasets are found by name through the entry-point group `xp.datasets`. Here a format is asked for facts
alone; `xp.data.dataset` opens what it owns.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from xp.errors import UserError, did_you_mean, join_names
from xp.hub.part import Part
from xp.json_types import JSON
from xp.plugins import load_all

GROUP = "xp.datasets"


@dataclass(frozen=True)
class DatasetFacts:
    """Camera names, task sentences and widths (A, S; 0 where there is none) of a dataset."""

    cameras: tuple[str, ...]
    tasks: tuple[str, ...]
    action_dim: int = 0
    state_dim: int = 0


@runtime_checkable
class DescribedFormat(Protocol):
    """A data format as checks see it: names and JSON only, nothing heavy is imported."""

    name: str
    looks: str
    """What a dataset of this format looks like on disk, as a part of a sentence."""

    def owns(self, root: str | Path) -> bool:
        """Whether this file or folder is of this format; costs a few looks at names. Never raises."""
        ...

    def facts(self, root: str | Path) -> DatasetFacts | None:
        """What is known without reading rows; None where opening it will say what is wrong."""
        ...

    def hint(self, given: str) -> str:
        """What to do about a `data.root` where nothing is, if this format knows what may be meant; else ""."""
        ...


@runtime_checkable
class PartlyReadFormat(Protocol):
    """A `DescribedFormat` of whose datasets single cameras and episodes can be read without the others' files."""

    parts_told_by: tuple[str, ...]
    """Patterns of the files that the methods read; few and small."""

    def camera_sizes(self, root: str | Path) -> Mapping[str, tuple[int, int, int]]:
        """{camera: (height, width, 3) in pixels as stored}.

        Raises:
            UserError: what describes the dataset is missing or damaged.
        """
        ...

    def files_of_part(self, root: str | Path, names: Sequence[str], part: Part) -> Sequence[str]:
        """Those of a dataset's files that are needed for a part of it.

        Args:
            root: a folder that holds at least the files of `parts_told_by`.
            names: all that the format reads, relative to the dataset.
            part: which part.

        Raises:
            UserError: what describes the dataset is missing or damaged; or the part names what it does not have.
        """
        ...


@runtime_checkable
class ToldFormat(DescribedFormat, Protocol):
    """A `DescribedFormat` whose files do not say all: `data.read`, or `read` of a dataset of a mixture, says the rest.

    It has a method `open_told`, too (`xp.data.dataset.ToldDatasetFormat`).
    """

    def check_reading(self, root: str | Path, reading: Mapping[str, JSON], key: str) -> None:
        """Check what is told, by the small files that describe the dataset.

        Args:
            root: the dataset.
            reading: the section; empty where none is given.
            key: where it stands, for messages.

        Raises:
            UserError: something is missing in it, unknown, or does not fit the dataset.
        """
        ...


def check_reading(root: str | Path | None, reading: object, key: str) -> None:
    """What is told of how a dataset is read fits it; nothing is checked where no dataset is yet.

    Raises:
        UserError: as `ToldFormat.check_reading`; it is no section; or the dataset says all itself.
    """
    found = find_format(root)
    if found is None or root is None:
        return
    if isinstance(found, ToldFormat):
        found.check_reading(root, reading_section(reading, key), key)
    elif reading:
        raise not_told(root, found, key)


def reading_section(reading: object, key: str) -> Mapping[str, JSON]:
    """The section of that name; empty where nothing is given.

    Raises:
        UserError: it is something else.
    """
    if reading is None:
        return {}
    if not isinstance(reading, Mapping):
        raise UserError(f"{key}={reading!r}: expected keys with values. Type for instance {key}.fps=10")
    return {str(name): value for name, value in reading.items()}


def not_told(root: str | Path, found: DescribedFormat, key: str) -> UserError:
    """The refusal of a section for a dataset that needs none."""
    return UserError(
        f"{key} is given, and {root}, of the format {found.name}, says itself how it is read. Type {key}=null"
    )


def installed_formats() -> Mapping[str, DescribedFormat]:
    """{name: format}: xp's own and those of installed packages, each a `xp.data.dataset.DatasetFormat`.

    Raises:
        UserError: two packages offer one name, or what one offers is no format.
    """
    return dict(sorted(load_all(GROUP, DescribedFormat).items()))


def find_format(root: str | Path | None) -> DescribedFormat | None:
    """The `DatasetFormat` that owns a file or folder; None where there is none.

    Raises:
        UserError: two formats claim it.
    """
    if root is None:
        return None
    owners = [each for each in installed_formats().values() if each.owns(root)]
    if len(owners) > 1:
        raise UserError(
            f"{root} is claimed by the data formats {join_names(each.name for each in owners)}: expected one. Remove "
            "what makes it look like the other, or uninstall the package of the format that is not meant."
        )
    return owners[0] if owners else None


def dataset_facts(root: str | Path | None) -> DatasetFacts | None:
    """Facts of a dataset; None where it is still to be recorded, or where opening it will say what is wrong."""
    found = find_format(root)
    return None if found is None or root is None else found.facts(root)


def dataset_looks() -> str:
    """What datasets of the installed formats look like on disk, in words."""
    return "; ".join(each.looks for each in installed_formats().values())


def missing_hint(given: str) -> str:
    """What a `data.root` where nothing is may be meant as, by the first format that knows; else ""."""
    return next(filter(None, (each.hint(given) for each in installed_formats().values())), "")


def choose_tasks(
    option: str, wanted: str | float | Sequence[object], known: Sequence[str], root: str | Path
) -> list[str]:
    """The tasks that `data.tasks` or `data.exclude_tasks` means.

    Args:
        option: its name, for the message.
        wanted: texts of tasks, patterns with * and ?, or numbers of tasks.
        known: the texts of the dataset's tasks, by number.
        root: the dataset, for the message.

    Raises:
        UserError: an entry is neither a text nor a whole number, or means no task.
    """
    found: list[str] = []
    for entry in [wanted] if isinstance(wanted, str | int | float) else wanted:
        if isinstance(entry, bool) or not isinstance(entry, str | int):
            raise UserError(
                f"{option} holds {str(entry).lower() if isinstance(entry, bool) else entry!r}: expected the text of a "
                f"task, a pattern with * and ?, or a whole number. {_known(known, root, option)}"
            )
        if isinstance(entry, int):
            hits = list(known[entry : entry + 1]) if entry >= 0 else []
        else:
            hits = [task for task in known if task == entry or fnmatch.fnmatchcase(task, entry)]
        if not hits:
            hint = did_you_mean(str(entry), known)
            raise UserError(
                f"{option} names {entry!r}, which is not a task of {root}{hint}. {_known(known, root, option)}"
            )
        found += hits
    return found


def _known(known: Sequence[str], root: str | Path, option: str) -> str:
    shown = [f"{number}: {task!r}" for number, task in enumerate(known[:20])]
    more = f", ... ({len(known)} in all)" if len(known) > len(shown) else ""
    text = f"'{option}=[\"{known[0]}\"]'" if known else f"'{option}=[\"push*\"]'"
    return (
        f"The tasks of {root} are {join_names(shown)}{more}. Type a text or pattern, {text}, or a number, "
        f"'{option}=[0]'."
    )
