"""Three datasets that have little in common, to train on at once."""

from pathlib import Path

import numpy as np

MIX = (
    "data.mix={{arm: {{root: {folder}/arm, weight: 0.5, cameras: {{primary: oblique, wrist: wrist}}}}, "
    "bare: {{root: {folder}/bare, weight: 0.2, cameras: {{primary: eye, wrist: null}}}}, "
    "video: {{root: {folder}/video, weight: 0.3, resample: every, cameras: {{primary: high, wrist: left}}}}}}"
)
"""Of a folder with the three sets."""


def write_sets(folder: Path) -> Path:
    """An arm with two cameras at 10 fps, videos of three cameras at 30 fps and 14 dimensions, and one without state."""
    _write(folder / "arm", fps=10, cameras={"oblique": (32, 32), "wrist": (32, 32)}, state=7, action=7, length=12)
    views = {"high": (48, 64), "left": (48, 64), "right": (48, 64)}
    _write(folder / "video", fps=30, cameras=views, state=14, action=14, length=36, use_videos=True)
    _write(folder / "bare", fps=10, cameras={"eye": (40, 40)}, state=0, action=3, length=10)
    return folder


def _write(root: Path, *, fps, cameras, state, action, length, use_videos=False) -> None:
    from xp.data.lerobot.writer import LeRobotWriter

    draw, time = np.random.default_rng(0), np.arange(length)[:, None]
    with LeRobotWriter(
        root,
        fps=fps,
        cameras=cameras,
        state_names=[f"s{i}" for i in range(state)],
        action_names=[f"a{i}" for i in range(action)],
        robot_type="made up",
        use_videos=use_videos,
    ) as writer:
        for episode in range(4):
            pictures = {name: draw.integers(0, 255, (length, *size, 3), np.uint8) for name, size in cameras.items()}
            phase = np.arange(max(state, action)) + episode
            states = np.sin(time / 5 + phase)[:, :state].astype(np.float32)
            actions = (np.cos(time / 5 + phase) * (1 + np.arange(len(phase))))[:, :action].astype(np.float32)
            writer.add_episode(("pick", "push")[episode % 2], pictures, states, actions)
