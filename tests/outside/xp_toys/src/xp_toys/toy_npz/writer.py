"""Writing `toy_npz`: an npz file for each episode, and toy.json at the end."""

from contextlib import contextmanager

import numpy as np

from xp import atomic
from xp.errors import UserError
from xp_toys.toy_npz.format import NOTES


class Writer:
    """Writes the files of one folder."""

    def __init__(self, folder):
        self.folder, self.tasks = folder, []

    def add_episode(self, task, images, state, action, *, environment_state=None):
        """See `xp.data.writer.DatasetWriter`."""
        arrays = {f"images.{camera}": frames for camera, frames in images.items()}
        file = self.folder / f"episode_{len(self.tasks)}.npz"
        np.savez_compressed(file, action=action, state=state, **arrays)
        self.tasks.append(task)


@contextmanager
def new_folder(root, *, fps, cameras, state_names, action_names, environment_state_names, use_videos, overwrite):
    """A writer; the folder appears at `root` when the block ends well."""
    if environment_state_names or use_videos:
        raise UserError(
            "collect.format=toy_npz: expected no environment state and no videos, which the format has no place for. "
            "Use env.environment_state=false collect.use_videos=false"
        )
    if root.exists() and not overwrite:
        raise UserError(f"{root} exists already and is left as it is. Give a new folder: data.root=FOLDER")
    with atomic.folder(root) as folder:
        writer = Writer(folder)
        yield writer
        tasks = sorted(set(writer.tasks))
        notes = {
            "fps": fps,
            "tasks": tasks,
            "cameras": {camera: {"size": list(size)} for camera, size in cameras.items()},
            "action_dim": len(action_names),
            "state_dim": len(state_names),
            "episodes": [tasks.index(task) for task in writer.tasks],
        }
        atomic.write_json(folder / NOTES, notes)
