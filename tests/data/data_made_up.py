"""Datasets in memory, and changes to dataset folders, for the tests of xp.data."""

import json
from pathlib import Path

import numpy as np


def made_up(
    lengths: list[int],
    tasks: list[int] | None = None,
    *,
    action_dim: int = 2,
    state_dim: int = 1,
    environment_dim: int = 0,
):
    """A dataset in memory, for laws about windows, splits and statistics.

    In each dimension action[n] = n, state[n] = -n, environment_state[n] = 1000 + n.
    """
    from xp.data.dataset import Episodes
    from xp.data.lerobot.info import CameraInfo, DatasetInfo
    from xp.data.lerobot.reader import LeRobotDataset

    task_of = np.asarray(tasks if tasks is not None else [0] * len(lengths))
    n = sum(lengths)
    starts = np.cumsum([0, *lengths[:-1]])
    episode = np.repeat(np.arange(len(lengths)), lengths)
    info = DatasetInfo(
        root=Path("made-up"), fps=10.0,
        streams={"top": CameraInfo(name="top", key="observation.images.top", height=2, width=2, is_video=False)},
        action_names=tuple(f"a{i}" for i in range(action_dim)), state_names=tuple(f"s{i}" for i in range(state_dim)),
        environment_state_names=tuple(f"e{i}" for i in range(environment_dim)),
        num_episodes=len(lengths), num_frames=n, robot_type="", codebase_version="v3.0", data_path="", video_path="",
    )  # fmt: skip
    names = [f"task {i}" for i in range(int(task_of.max()) + 1)]
    info.__dict__["tasks"] = names  # cached properties that would otherwise read files
    dataset = LeRobotDataset(
        info=info, decoder="auto",
        episodes=Episodes(starts, np.asarray(lengths), task_of, tuple(names)),
        action=np.repeat(np.arange(n, dtype=np.float32)[:, None], action_dim, 1),
        state=np.repeat(-np.arange(n, dtype=np.float32)[:, None], state_dim, 1),
        environment_state=np.repeat(1000 + np.arange(n, dtype=np.float32)[:, None], environment_dim, 1),
        episode_index=episode, frame_index=np.arange(n) - starts[episode], task_index=task_of[episode],
        data_files=(), videos={}, known_digests=f"made-up-{n}",
    )  # fmt: skip
    return dataset


def made_up_frames(dataset) -> dict[str, np.ndarray]:
    """Frames [N, 2, 2, 3] whose pixels are all n modulo 256."""
    n = np.arange(dataset.num_frames, dtype=np.int64).astype(np.uint8)
    return {"top": np.broadcast_to(n[:, None, None, None], (len(n), 2, 2, 3)).copy()}


def edit_info(root: Path, **changes) -> dict:
    """Change entries of meta/info.json; None removes one."""
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    info.update(changes)
    path.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))
    return info
