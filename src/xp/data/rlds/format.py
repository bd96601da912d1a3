"""Folders of TFDS in RLDS as a data format: what the entry point `rlds` of the group `xp.datasets` names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xp.config.dataset_facts import DatasetFacts
from xp.data.rlds.features import FILE as FEATURES
from xp.data.rlds.features import read_features
from xp.data.rlds.folder import FORMAT as FILES
from xp.data.rlds.folder import INFO, looks_like, shards, version_folder
from xp.data.rlds.reading import camera_fields, choose_fields, parse_reading
from xp.errors import UserError
from xp.json_types import JSON

if TYPE_CHECKING:
    from xp.data.rlds.dataset import RldsDataset

_KEY = "data.read"


class RldsFormat:
    """A folder with `features.json`, `dataset_info.json` and files of records; or the folder of its one version."""

    name = "rlds"
    looks = (
        f"a dataset in RLDS (Open X-Embodiment) is a folder with {FEATURES}, {INFO} and *.{FILES}-* files, as TFDS "
        "writes it"
    )
    described_by = (FEATURES, INFO)
    reads = (FEATURES, INFO, f"*.{FILES}-*")

    def owns(self, root: str | Path) -> bool:
        """Whether there are such files in the folder, or in a version in it."""
        return looks_like(root)

    def facts(self, root: str | Path) -> DatasetFacts | None:
        """The cameras; tasks stand in the records, and widths depend on what `data.read` says."""
        try:
            known = read_features(version_folder(Path(root).expanduser()))
            return DatasetFacts(tuple(camera_fields(known, root)), ())
        except UserError:
            return None

    def hint(self, given: str) -> str:
        """Nothing better is known of folders that are not there."""
        return ""

    def check_reading(self, root: str | Path, reading: Mapping[str, JSON], key: str) -> None:
        """See `xp.config.dataset_facts.ToldFormat`."""
        told = parse_reading(reading, key)
        folder = version_folder(Path(root).expanduser())
        choose_fields(told, read_features(folder), root)
        shards(folder, told.splits, f"{key}.splits")

    def open(
        self,
        root: str | Path,
        *,
        decoder: str = "auto",
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
    ) -> "RldsDataset":
        """Refuse it, since files in RLDS do not say their rate: `open_told` opens them."""
        return self.open_told(root, {}, _KEY, decoder=decoder, cache_dir=cache_dir, cache_gb=cache_gb)

    def open_told(
        self,
        root: str | Path,
        reading: Mapping[str, JSON],
        key: str,
        *,
        decoder: str = "auto",
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
    ) -> "RldsDataset":
        """Open the folder; see `xp.data.rlds.reader.open_folder`."""
        from xp.data.rlds.reader import open_folder

        told = parse_reading(reading, key)
        return open_folder(Path(root).expanduser(), told, decoder=decoder, cache_dir=cache_dir, cache_gb=cache_gb)


FORMAT = RldsFormat()
