"""LeRobotDataset folders as a data format: what the entry point `lerobot` of the group `xp.datasets` names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.config.dataset_facts import DatasetFacts
from xp.data.lerobot.facts import folder_facts, hub_hint
from xp.hub.card import FormatWords
from xp.hub.part import Part

if TYPE_CHECKING:
    from xp.data.dataset import DatasetFormat
    from xp.data.lerobot.export import LeRobotFiles
    from xp.data.lerobot.reader import LeRobotDataset
    from xp.data.lerobot.writer import LeRobotWriter


class LeRobotFormat:
    """The format of a folder with `meta/info.json`, whatever its version: opening it says which versions are read."""

    name = "lerobot"
    looks = (
        "a LeRobotDataset (v2.0 to v3.0) is a folder with meta/info.json, data/ and, where frames are videos, videos/"
    )
    described_by = ("meta/info.json", "meta/tasks.parquet", "meta/tasks.jsonl")
    reads = ("meta/*", "data/*", "videos/*")
    parts_told_by = ("meta/info.json", "meta/tasks.*", "meta/episodes*")
    on_hub = FormatWords(
        tag="LeRobot",
        sentence="A dataset in LeRobot's format.",
        description="meta/info.json",
        version="codebase_version",
        use="lerobot-train --dataset.repo_id={repo}",
    )

    def owns(self, root: str | Path) -> bool:
        """Whether `root` has a `meta/info.json`, of whatever kind: a wrong one is refused when it is opened."""
        return os.path.lexists(os.path.join(os.path.expanduser(root), "meta", "info.json"))  # noqa: PTH111, PTH118

    def facts(self, root: str | Path) -> DatasetFacts | None:
        """What `meta/` says, as far as it can be read."""
        return folder_facts(root)

    def camera_sizes(self, root: str | Path) -> dict[str, tuple[int, int, int]]:
        """See `xp.config.dataset_facts.PartlyReadFormat`."""
        from xp.data.lerobot.part import camera_sizes

        return camera_sizes(root)

    def files_of_part(self, root: str | Path, names: Sequence[str], part: Part) -> list[str]:
        """See `xp.config.dataset_facts.PartlyReadFormat`."""
        from xp.data.lerobot.part import files_of_part

        return files_of_part(root, names, part)

    def hint(self, given: str) -> str:
        """Where a dataset of the Hugging Face Hub may be meant: a copy on this machine, or how to download it."""
        return hub_hint(given)

    def open(
        self,
        root: str | Path,
        *,
        decoder: str = "auto",
        cache_dir: str | Path | None = None,
        cache_gb: float = 20.0,
    ) -> "LeRobotDataset":
        """Open the folder; see `xp.data.lerobot.reader.open_folder`."""
        from xp.data.lerobot.reader import open_folder

        return open_folder(root, decoder=decoder, cache_dir=cache_dir, cache_gb=cache_gb)

    def create(
        self,
        root: str | Path,
        *,
        fps: float,
        cameras: Mapping[str, tuple[int, int]],
        state_names: Sequence[str],
        action_names: Sequence[str],
        robot_type: str,
        environment_state_names: Sequence[str] = (),
        use_videos: bool = False,
        overwrite: bool = False,
    ) -> "LeRobotWriter":
        """A new folder of format v3.0; see `xp.data.lerobot.writer.LeRobotWriter`."""
        from xp.data.lerobot.writer import LeRobotWriter

        return LeRobotWriter(
            root,
            fps=fps,
            cameras=cameras,
            state_names=state_names,
            action_names=action_names,
            robot_type=robot_type,
            environment_state_names=environment_state_names,
            use_videos=use_videos,
            overwrite=overwrite,
        )

    def exportable(self, root: str | Path) -> "LeRobotFiles":
        """The folder as files, of format v3.0 or v2.1."""
        from xp.data.lerobot.export import LeRobotFiles
        from xp.data.lerobot.stored import open_stored

        return LeRobotFiles(open_stored(root))


FORMAT: "DatasetFormat" = LeRobotFormat()
