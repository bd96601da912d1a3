"""Copying chosen episodes of a dataset into datasets of their own: what a data format may offer beside `open`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from xp.config.dataset_facts import find_format
from xp.errors import UserError


@dataclass
class Exported:
    """What an export did with the videos: files that were linked whole, cut, and linked because no cut was possible."""

    linked: int = 0
    cut: int = 0
    kept_whole: list[str] = field(default_factory=list[str])


@runtime_checkable
class ExportableDataset(Protocol):
    """A dataset as files, whose episodes can be copied without decoding a frame."""

    @property
    def root(self) -> Path:
        """Its folder."""
        ...

    @property
    def episode_tasks(self) -> Sequence[str]:
        """The instruction of each episode."""
        ...

    def export(self, episodes: Sequence[int], target: Path) -> Exported:
        """Write the chosen episodes (ascending numbers) as the dataset folder `target`, whole or not at all.

        Raises:
            UserError: `target` exists, or a file of the source is damaged.
        """
        ...


@runtime_checkable
class ExportingFormat(Protocol):
    """The part of a `DatasetFormat` that exports."""

    def exportable(self, root: str | Path) -> ExportableDataset:
        """A dataset of this format as files.

        Raises:
            UserError: it is missing, damaged, or of a version that is not read.
        """
        ...


def open_exportable(root: str | Path) -> ExportableDataset:
    """The dataset at `root` as files, to copy episodes of.

    Raises:
        UserError: its format does not export; or as `ExportingFormat.exportable` raises.
    """
    found = find_format(root)
    if not isinstance(found, ExportingFormat):
        kind = "no installed format knows it" if found is None else f"the format {found.name} does not export"
        raise UserError(
            f"split.export: the episodes of {root} cannot be copied into datasets of their own: {kind}. Leave "
            "split.export out and train on the manifests: data.split=MANIFEST"
        )
    return found.exportable(root)
