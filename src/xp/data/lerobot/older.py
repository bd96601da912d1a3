"""LeRobot's formats v2.0 and v2.1: a parquet file and an mp4 per episode, and `meta/` as JSON lines.

What `meta/` says is given as the tables of v3.0, with the number of an episode as the number of its files, so all that
follows is the same for every version. v2.1 differs from v2.0 in the statistics, which are not read here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.json_file import Fields, read_lines
from xp.foreign.paths import MissingError, inside
from xp.foreign.text import printable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

VERSIONS = ("v2.0", "v2.1")
DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
PLACES = ("episode_chunk", "episode_index")
CHUNK = 1000
"""Episodes of a chunk where meta/info.json has no `chunks_size`."""
_MOST_BYTES = 1_000_000_000


def meta_files(root: Path) -> list[Path]:
    """The files below `meta/` that hold tasks and episodes."""
    return [root / "meta" / "tasks.jsonl", root / "meta" / "episodes.jsonl"]


def read_older_tasks(root: Path) -> list[str]:
    """The language instructions by task index, from `meta/tasks.jsonl`.

    Raises:
        UserError: the file is missing or damaged, or the tasks are not numbered 0, 1, 2, ...
    """
    path = root / "meta" / "tasks.jsonl"
    tasks = {line.integer("task_index"): line.text("task") for line in json_lines(path)}
    if sorted(tasks) != list(range(len(tasks))):
        raise UserError(
            f"{path} does not number its tasks: 0..{len(tasks) - 1} are expected. Copy the dataset's meta/ folder "
            "again."
        )
    return [tasks[number] for number in range(len(tasks))]


def read_older_episodes(root: Path, video_keys: Sequence[str], chunk: int) -> "pa.Table":
    """`meta/episodes.jsonl` with the columns of `meta/episodes` of v3.0 that say where episodes lie, in their order.

    Args:
        root: the dataset.
        video_keys: feature keys stored as mp4; an episode begins at the start of its own file.
        chunk: how many episodes share a folder.

    Raises:
        UserError: the file is missing or damaged.
    """
    import numpy as np
    import pyarrow as pa

    lines = json_lines(root / "meta" / "episodes.jsonl")
    found = sorted((line.integer("episode_index", low=0), line.integer("length", low=1)) for line in lines)
    number, length = np.array(found, np.int64).reshape(len(found), 2).T
    columns = {"episode_index": number, "length": length}
    for place in ("data", *(f"videos/{key}" for key in video_keys)):
        columns |= {f"{place}/chunk_index": number // chunk, f"{place}/file_index": number}
    columns |= {f"videos/{key}/from_timestamp": np.zeros(len(number)) for key in video_keys}
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def older_episode_numbers(root: Path, name: str) -> "np.ndarray":
    """The field `name` of each line of `meta/episodes.jsonl`, in episode order: [E] float64; true counts as 1.

    Raises:
        UserError: the file is missing or damaged, has no such field, or one that is no number somewhere.
    """
    import numpy as np

    path = root / "meta" / "episodes.jsonl"
    lines = sorted(json_lines(path), key=lambda line: line.integer("episode_index", low=0))
    plain = {field: None for line in lines for field, value in line.content.items() if _is_number(value)}
    if name not in plain:
        raise UserError(
            f"{printable(path)} has no field of numbers '{name}'{did_you_mean(name, plain)}; it has "
            f"{join_names(plain)}. Name one of them, or give the weights in a JSON file."
        )
    return np.array([_as_number(line, name) for line in lines])


def _as_number(line: Fields, name: str) -> float:
    value = line.content.get(name)
    return float(value) if isinstance(value, bool) else line.number(name)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def json_lines(path: Path) -> list[Fields]:
    """The objects of a file of `meta/`.

    Raises:
        UserError: it is missing, damaged, or leads out of the dataset.
    """
    inside(path.parent.parent, path.relative_to(path.parent.parent), "a file of a LeRobotDataset v2")
    try:
        return list(read_lines(path, "lines of a LeRobotDataset v2", most=_MOST_BYTES))
    except MissingError as error:
        raise UserError(f"{error} A LeRobotDataset v2 has it: copy the dataset's meta/ folder again.") from error
