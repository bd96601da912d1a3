"""What the datasets that LeRobot writes for these tests contain."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

CAMERAS = {"top": (96, 96), "wrist": (64, 96)}
LENGTHS = (7, 9, 8, 6, 10)
TASKS = ("pick the cube", "push the cube", "pick the cube", "pick the cube", "push the cube")


@dataclass
class Written:
    """What was written into a dataset, to compare with what is read."""

    root: Path
    images: dict[str, np.ndarray] = field(default_factory=dict)
    state: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    action: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def picture(height: int, width: int, phase: float) -> np.ndarray:
    """A smooth picture, different for every phase, that a lossy codec keeps recognisable."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + phase), np.cos(y / 7 - phase), np.sin((x + y) / 11 + 2 * phase)]
    return np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1)


def episodes_to_write() -> list[tuple[str, dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    made = []
    for e, (length, task) in enumerate(zip(LENGTHS, TASKS, strict=True)):
        images = {
            name: np.stack([picture(h, w, 0.7 * i + 5 * e + c) for i in range(length)])
            for c, (name, (h, w)) in enumerate(CAMERAS.items())
        }
        state, action = rng.normal(size=(length, 4)), rng.normal(size=(length, 3))
        made.append((task, images, state.astype(np.float32), action.astype(np.float32)))
    return made


def together(root: Path) -> Written:
    made = episodes_to_write()
    images = {name: np.concatenate([m[1][name] for m in made]) for name in CAMERAS}
    return Written(root, images, np.concatenate([m[2] for m in made]), np.concatenate([m[3] for m in made]))


def write(root: Path, use_videos: bool) -> Written:
    from xp.data.lerobot.writer import LeRobotWriter

    with LeRobotWriter(
        root,
        fps=10,
        cameras=CAMERAS,
        state_names=["a", "b", "c", "d"],
        action_names=["x", "y", "z"],
        robot_type="arm",
        use_videos=use_videos,
    ) as writer:
        for episode in episodes_to_write():
            writer.add_episode(*episode)
    return together(root)
