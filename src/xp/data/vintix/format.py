"""Folders of Vintix trajectories as a data format: what the entry point `vintix` of the group `xp.datasets` names."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from xp.config.dataset_facts import DatasetFacts
from xp.data.vintix.folder import looks_like, task_folders
from xp.errors import UserError

if TYPE_CHECKING:
    from xp.data.array_dataset import ArrayDataset
    from xp.data.vintix.writer import TrajectoryWriter


class VintixFormat:
    """A folder with `*.h5` and a JSON description, or a folder of such folders."""

    name = "vintix"
    holds_rewards = True
    looks = "a dataset of Vintix is a folder with histories (*.h5) and FOLDER.json, or a folder of such folders"

    def owns(self, root: str | Path) -> bool:
        """Whether there are HDF5 files in the folder, or in a folder in it."""
        return looks_like(root)

    def facts(self, root: str | Path) -> DatasetFacts | None:
        """As the descriptions say; None where opening it will say what is wrong with them."""
        try:
            tasks = task_folders(Path(root).expanduser())
        except UserError:
            return None
        if not tasks:
            return None
        widths = max(task.action_dim for task in tasks), max(task.state_dim for task in tasks)
        return DatasetFacts((), tuple(dict.fromkeys(task.task for task in tasks)), *widths)

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
        """Open the folder; see `xp.data.vintix.reader.open_folder`."""
        from xp.data.vintix.reader import open_folder

        return open_folder(Path(root).expanduser(), decoder=decoder)

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
    ) -> AbstractContextManager["TrajectoryWriter"]:
        """A new folder of one task; see `xp.data.vintix.writer.new_folder`."""
        from xp.data.vintix.writer import new_folder

        if cameras or environment_state_names or use_videos:
            raise UserError(
                f"The format vintix holds no cameras, no environment state and no videos, and {root} was to have them. "
                "Record without: env.cameras={} env.environment_state=false collect.use_videos=false, or in another "
                "format: collect.format=lerobot"
            )
        return new_folder(
            Path(root).expanduser(),
            fps=fps,
            state_names=state_names,
            action_names=action_names,
            robot_type=robot_type,
            overwrite=overwrite,
        )


FORMAT = VintixFormat()
