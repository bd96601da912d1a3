"""What a LeRobotDataset folder says about itself: `meta/info.json`, read with the standard library alone.

Cheap enough for configuration checks: no pyarrow, no numpy. The layout is LeRobot's (datasets v2.0 to v3.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xp.data.lerobot import older
from xp.data.lerobot.facts import hub_hint
from xp.data.lerobot.features import CameraInfo, camera_streams, checked_features, dimension_names
from xp.data.lerobot.places import checked_pattern
from xp.errors import UserError
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import MissingError, inside
from xp.foreign.text import printable

V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
V3_PLACES = ("chunk_index", "file_index")
_MOST_FPS = 100_000


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
    chunks_size: int = older.CHUNK
    """v2: how many episodes share a folder."""

    @property
    def is_older(self) -> bool:
        """Whether the format is v2.0 or v2.1 (`xp.data.lerobot.older`)."""
        return self.codebase_version in older.VERSIONS

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
        if self.is_older:
            return older.read_older_tasks(self.root)
        from xp.data.lerobot.tables import read_tasks

        return read_tasks(self.root)


def dataset_info(root: str | Path) -> DatasetInfo:
    """Read the description of the dataset folder `root`.

    Raises:
        UserError: the folder is missing, is no LeRobotDataset, or is of another LeRobot version.
    """
    root = Path(root).expanduser()
    raw = read_info(root)
    version = raw.text("codebase_version", "unknown", most=40)
    _check_version(root, version)
    is_older = version in older.VERSIONS
    data, video, places = (older.DATA, older.VIDEO, older.PLACES) if is_older else (V3_DATA, V3_VIDEO, V3_PLACES)
    features = checked_features(raw)
    if "action" not in features:
        raise UserError(
            f"The dataset {root} has no feature 'action' (it has: {', '.join(sorted(features)) or 'none'}). xp trains "
            "policies from actions: record the dataset with actions, or point data.root= at one that has them."
        )
    return DatasetInfo(
        root=root,
        fps=frame_rate(raw),
        streams=camera_streams(features),
        action_names=dimension_names(features, "action"),
        state_names=dimension_names(features, "observation.state"),
        environment_state_names=dimension_names(features, "observation.environment_state"),
        num_episodes=raw.integer("total_episodes", 0, low=0),
        num_frames=raw.integer("total_frames", 0, low=0),
        robot_type=printable(raw.text("robot_type", "")),
        codebase_version=version,
        data_path=pattern_of(raw, "data_path", data, places),
        video_path=pattern_of(raw, "video_path", video, places),
        chunks_size=raw.integer("chunks_size", older.CHUNK, low=1) if is_older else older.CHUNK,
    )


def read_info(root: Path) -> Fields:
    """`meta/info.json`, or what is wrong with the folder.

    Raises:
        UserError: the folder is missing, holds no such file, or it is no object in JSON.
    """
    if not root.is_dir():
        raise UserError(_no_folder(root))
    try:
        return read_fields(inside(root, "meta/info.json", "the dataset's description"), "the dataset's description")
    except MissingError as error:
        inner = sorted(p.parent.parent.name for p in root.glob("*/meta/info.json"))
        hint = f" It contains datasets: try data.root={root / inner[0]}." if inner else ""
        raise UserError(
            f"The folder {root} is not a LeRobotDataset: it has no meta/info.json.{hint} Give the folder that holds "
            "meta/, data/ and videos/ as data.root=<folder>, or make one: `xp task=collect data.root=<new folder>`."
        ) from error


def frame_rate(info: Fields) -> float:
    """Frames per second, above 0."""
    rate = info.number("fps", low=0, high=_MOST_FPS)
    if not rate:
        raise info.refusal("fps", "a number of frames per second above 0")
    return rate


def pattern_of(info: Fields, name: str, default: str, fields: tuple[str, ...] = V3_PLACES) -> str:
    """`data_path` or `video_path`, checked (see `xp.data.lerobot.places`)."""
    fields = (*fields, "video_key") if name == "video_path" else fields
    return checked_pattern(info.text(name, default) or default, fields, info.place(name))


def _check_version(root: Path, version: str) -> None:
    version = printable(version, 20)
    major = version.lstrip("v").split(".")[0]
    if major == "3" or version in older.VERSIONS:
        return
    if major.isdigit() and int(major) > 3:
        raise UserError(
            f"The dataset {root} has LeRobot format {version}; xp reads v2.0 to v3.0. Install a newer xp, or record "
            "the dataset with LeRobot 0.6.x."
        )
    raise UserError(
        f"The dataset {root} has LeRobot format {version}; xp reads v2.0, v2.1 and v3.0. Convert it to v2.0 or later "
        "with the LeRobot that wrote it (its `convert_dataset_v1_to_v2.py`), or record it again."
    )


def _no_folder(root: Path) -> str:
    """What to do where there is no folder; `lerobot/pusht` may be meant as one of the Hugging Face Hub."""
    make = (
        f"Make one with `xp task=collect data.root={root}` (expert episodes of the embedded suite), or give a "
        "LeRobotDataset v3.0 folder recorded with LeRobot: data.root=<folder>."
    )
    return f"There is no dataset folder {root}. {hub_hint(str(root)) or make}"
