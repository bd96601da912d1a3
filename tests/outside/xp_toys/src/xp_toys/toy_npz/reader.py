"""Reading `toy_npz`: all numbers at once, the pictures of an episode when they are asked for."""

import numpy as np

from xp.data import ArrayDataset
from xp.errors import UserError
from xp.foreign.npz import read_npz
from xp.foreign.paths import member

WHAT = "an episode of a toy_npz dataset"


def open_folder(root, notes, decoder):
    """The dataset of a folder, from the fields of its toy.json."""
    tasks, numbers = notes.texts("tasks"), notes.integers("episodes", low=0)
    if not numbers or max(numbers) >= len(tasks):
        raise notes.refusal("episodes", f"the number of a task, 0 to {len(tasks) - 1}, for each episode")
    files = [member(root, f"episode_{number}.npz", WHAT) for number in range(len(numbers))]
    parts = [_arrays(file, ("action", "state")) for file in files]
    sizes = {name: size.integers("size", count=2, low=8, high=4096) for name, size in notes.object("cameras").objects()}
    return ArrayDataset(
        root=root,
        fps=notes.number("fps", low=0.1, high=1000),
        tasks=tasks,
        lengths=np.array([len(part["action"]) for part in parts]),
        episode_tasks=np.array(numbers),
        action=np.concatenate([part["action"] for part in parts]),
        state=np.concatenate([part["state"] for part in parts]),
        files=[member(root, "toy.json", WHAT), *files],
        cameras={name: (*size, 3) for name, size in sizes.items()},
        frames=lambda camera, episode: _arrays(files[episode], (f"images.{camera}",))[f"images.{camera}"],
        decoder=decoder,
    )


def _arrays(file, names):
    found = read_npz(file, WHAT)
    for name in names:
        if name not in found or not found[name].size or len(found[name]) != len(found.get("action", ())):
            raise UserError(
                f"{file} has no array '{name}' with a row for each step (it has: {', '.join(found)}). Record the "
                "episode again, or copy it again from where it came from."
            )
    return found
