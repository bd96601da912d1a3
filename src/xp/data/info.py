"""What a LeRobotDataset v3.0 folder says about itself: `meta/info.json`, read with the standard library alone.

Cheap enough for configuration checks: no pyarrow, no numpy. The layout is LeRobot's (datasets v3.0).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xp.errors import UserError

_CAMERA_PREFIX = "observation.images."
_SINGLE_CAMERA = "observation.image"


@dataclass(frozen=True, kw_only=True)
class CameraInfo:
    """One camera stream: its feature `key` in the files, its size in pixels, and whether it is stored as mp4."""

    name: str
    key: str
    height: int
    width: int
    is_video: bool


@dataclass(frozen=True)
class DatasetInfo:
    """The description of a dataset. `cameras` maps name (without `observation.images.`) to (height, width, 3)."""

    root: Path
    fps: float
    streams: Mapping[str, CameraInfo]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    environment_state_names: tuple[str, ...]
    num_episodes: int
    num_frames: int
    robot_type: str
    codebase_version: str
    data_path: str
    video_path: str

    @property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """Name to (height, width, channels) as stored; channels are 3 because frames are read as RGB."""
        return {name: (stream.height, stream.width, 3) for name, stream in self.streams.items()}

    @property
    def action_dim(self) -> int:
        """A, the number of action dimensions."""
        return len(self.action_names)

    @property
    def state_dim(self) -> int:
        """S, the number of state dimensions; 0 where the dataset has no `observation.state`."""
        return len(self.state_names)

    @property
    def environment_dim(self) -> int:
        """E, the number of dimensions of `observation.environment_state`; 0 where the dataset has none."""
        return len(self.environment_state_names)

    @cached_property
    def tasks(self) -> list[str]:
        """The language instructions, by task index. Read on first use (imports pyarrow)."""
        from xp.data.tables import read_tasks

        return read_tasks(self.root)


def dataset_info(root: str | Path) -> DatasetInfo:
    """Read the description of the dataset folder `root`.

    Raises:
        UserError: the folder is missing, is no LeRobotDataset, or is of another LeRobot version.
    """
    root = Path(root).expanduser()
    raw = _read_info(root)
    _check_version(root, str(raw.get("codebase_version", "unknown")))
    features = raw.get("features") or {}
    if "action" not in features:
        raise UserError(
            f"The dataset {root} has no feature 'action' (it has: {', '.join(sorted(features)) or 'none'}). xp trains "
            "policies from actions: record the dataset with actions, or point data.root= at one that has them."
        )
    return DatasetInfo(
        root=root,
        fps=float(raw.get("fps") or 0),
        streams=_streams(features),
        action_names=_names(root, features, "action"),
        state_names=_names(root, features, "observation.state"),
        environment_state_names=_names(root, features, "observation.environment_state"),
        num_episodes=int(raw.get("total_episodes", 0)),
        num_frames=int(raw.get("total_frames", 0)),
        robot_type=str(raw.get("robot_type") or ""),
        codebase_version=str(raw["codebase_version"]),
        data_path=raw.get("data_path") or "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path=raw.get("video_path") or "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )


def _read_info(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise UserError(
            f"There is no dataset folder {root}. Make one with `xp task=collect data.root={root}` (expert episodes of "
            "the embedded suite), or give a LeRobotDataset v3.0 folder recorded with LeRobot: data.root=<folder>."
        )
    path = root / "meta" / "info.json"
    if not path.is_file():
        inner = sorted(p.parent.parent.name for p in root.glob("*/meta/info.json"))
        hint = f" It contains datasets: try data.root={root / inner[0]}." if inner else ""
        raise UserError(
            f"The folder {root} is not a LeRobotDataset: it has no meta/info.json.{hint} Give the folder that holds "
            "meta/, data/ and videos/ as data.root=<folder>, or make one: `xp task=collect data.root=<new folder>`."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}). The copy is probably incomplete: copy the dataset again."
        ) from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no JSON object. The copy is probably damaged: copy the dataset again.")
    return raw


def _check_version(root: Path, version: str) -> None:
    major = version.lstrip("v").split(".")[0]
    if major == "3":
        return
    if major.isdigit() and int(major) > 3:
        raise UserError(
            f"The dataset {root} has LeRobot format {version}; xp reads v3.0. Install a newer xp, or record the "
            "dataset with LeRobot 0.6.x."
        )
    older = "" if version == "v2.1" else " (this step takes v2.1: convert older formats to v2.1 first with LeRobot 0.3)"
    raise UserError(
        f"The dataset {root} has LeRobot format {version}; xp reads v3.0. Convert it in place with LeRobot's own tool: "
        f"`python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=local/{root.name} --root={root} "
        f"--push-to-hub=false`{older}."
    )


def _streams(features: Mapping[str, Any]) -> dict[str, CameraInfo]:
    """The colour cameras among the features; depth maps are left out."""
    streams: dict[str, CameraInfo] = {}
    for key, feature in features.items():
        info = feature.get("info") or {}
        is_depth = info.get("is_depth_map") or info.get("video.is_depth_map")
        if feature.get("dtype") not in ("image", "video") or is_depth or not _is_camera(key):
            continue
        name = key.removeprefix(_CAMERA_PREFIX) if key.startswith(_CAMERA_PREFIX) else key.rsplit(".", 1)[-1]
        height, width = _height_width(feature)
        streams[name] = CameraInfo(name=name, key=key, height=height, width=width, is_video=feature["dtype"] == "video")
    return streams


def _is_camera(key: str) -> bool:
    return key.startswith(_CAMERA_PREFIX) or key == _SINGLE_CAMERA


def _height_width(feature: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width whatever the order of the shape: by its axis names, else by where the 1, 3 or 4 channels are."""
    shape = [int(n) for n in feature["shape"]]
    names = feature.get("names")
    axes = [str(name).rstrip("s") for name in names] if isinstance(names, list) else []
    if len(shape) == 2:
        return shape[0], shape[1]
    if {"height", "width"} <= set(axes):
        return shape[axes.index("height")], shape[axes.index("width")]
    channels_first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
    return (shape[1], shape[2]) if channels_first else (shape[0], shape[1])


def _names(root: Path, features: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The names of the dimensions of a vector feature, made up as `action_0`... where the file has no fitting ones."""
    if key not in features:
        return ()
    shape = features[key]["shape"]
    if len(shape) != 1:
        raise UserError(
            f"The feature '{key}' of {root} has shape {tuple(shape)}; xp reads vectors (one axis). Flatten it with "
            "LeRobot's dataset tools (`lerobot-edit-dataset`), or use another dataset."
        )
    names = features[key].get("names")
    if isinstance(names, dict):
        values = list(names.values())
        names = sorted(names, key=names.__getitem__) if all(isinstance(v, int) for v in values) else sum(values, [])
    if isinstance(names, list) and len(names) == shape[0]:
        return tuple(str(name) for name in names)
    short = key.rsplit(".", 1)[-1]
    return tuple(f"{short}_{i}" for i in range(shape[0]))
