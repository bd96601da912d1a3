"""Folders of LIBERO's HDF5 files as a data format: what the entry point `libero` of the group `xp.datasets` names."""

from pathlib import Path
from typing import TYPE_CHECKING

from xp.config.dataset_facts import DatasetFacts
from xp.data.libero.folder import looks_like

if TYPE_CHECKING:
    from xp.data.array_dataset import ArrayDataset


class LiberoFormat:
    """A folder with `*.hdf5`, each file the demonstrations of one task."""

    name = "libero"
    looks = "LIBERO's demonstrations are a folder with TASK_demo.hdf5 files"

    def owns(self, root: str | Path) -> bool:
        """Whether there are such files in the folder."""
        return looks_like(root)

    def facts(self, root: str | Path) -> DatasetFacts | None:
        """Nothing: tasks and widths stand inside the files."""
        return None

    def hint(self, given: str) -> str:
        """Nothing better is known of folders that are not there."""
        return ""

    def open(
        self,
        root: str | Path,
        *,
        decoder: str = "auto",
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
    ) -> "ArrayDataset":
        """Open the folder; see `xp.data.libero.reader.open_folder`."""
        from xp.data.libero.reader import open_folder

        return open_folder(Path(root).expanduser(), decoder=decoder)


FORMAT = LiberoFormat()
