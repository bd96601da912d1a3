"""Which files of a LeRobotDataset a part of it needs: videos of the chosen cameras, of the chosen episodes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from xp.config.dataset_facts import choose_tasks
from xp.data.lerobot.features import camera_streams, checked_features
from xp.data.lerobot.older import VERSIONS, json_lines
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import inside
from xp.hub.part import Measured, Part

_VIDEOS = "videos/"


def camera_sizes(root: str | Path) -> dict[str, tuple[int, int, int]]:
    """{camera: (height, width, 3)} as stored; raises as `dataset_info`."""
    streams = camera_streams(checked_features(_description(root)))
    return {name: (stream.height, stream.width, 3) for name, stream in streams.items()}


def files_of_part(root: str | Path, names: Sequence[str], part: Part) -> list[str]:
    """See `xp.config.dataset_facts.PartlyReadFormat.files_of_part`; rows are read whole, videos are not.

    Raises:
        UserError: what `meta/` says is damaged; a task or camera that the dataset does not have.
    """
    info = _description(root)
    features = checked_features(info)
    keys = {key for key, feature in features.items() if feature.text("dtype") == "video"}
    if part.cameras is not None:
        wanted = {stream.key for stream in camera_streams(features).values() if stream.name in part.cameras}
        names = [name for name in names if not _is_of(name, keys - wanted)]
        keys &= wanted
    if not (part.chooses_episodes and keys):
        return list(names)
    needed = _videos_of_episodes(Path(root), part)
    return [name for name in names if not _is_of(name, keys) or name in needed]


def _is_of(name: str, keys: Iterable[str]) -> bool:
    """Whether a file is a video of one of these features: their key is one of its folders."""
    return name.startswith(_VIDEOS) and not set(name.split("/")[1:-1]).isdisjoint(keys)


def _description(root: str | Path) -> Fields:
    return read_fields(inside(str(root), "meta/info.json", "the dataset's description"), "the dataset's description")


def _videos_of_episodes(root: Path, part: Part) -> set[str]:
    """Names of the videos that hold an episode of the part."""
    import numpy as np

    from xp.data.lerobot.reader import described_videos

    chosen = _episodes(root, part)
    parts = (video for videos in described_videos(root).values() for video in videos)
    return {video.path.relative_to(root).as_posix() for video in parts if np.isin(video.episodes, list(chosen)).any()}


def _episodes(root: Path, part: Part) -> set[int]:
    """The episodes that a training on the part may read, or a few more: those of whose task meta/ is silent."""
    tasks = dict(enumerate(_tasks_of_episodes(root)))
    found = set(tasks)
    if part.split is not None:
        manifest = read_fields(part.split, "a split manifest", most=1 << 27)
        found &= {*manifest.integers("train", most=1 << 24), *manifest.integers("val", most=1 << 24)}
    known = _known_tasks(root)
    if part.tasks is not None:
        kept = set(choose_tasks("data.tasks", list(part.tasks), known, root))
        found = {number for number in found if not tasks[number] or not kept.isdisjoint(tasks[number])}
    if part.exclude_tasks is not None:
        left = set(choose_tasks("data.exclude_tasks", list(part.exclude_tasks), known, root))
        found = {number for number in found if not tasks[number] or not left.issuperset(tasks[number])}
    return found if part.measured is None else _measured(part.measured, tasks, found)


def _measured(asked: Measured, tasks: Mapping[int, tuple[str, ...]], chosen: Collection[int]) -> set[int]:
    """The episodes that a policy may be measured on: of each source that may turn out to count.

    Args:
        asked: the sources.
        tasks: the tasks of each episode.
        chosen: the episodes of which a share is held out.
    """
    if any(len(each) != 1 for each in tasks.values()):
        return set(tasks)  # only the rows tell which task an episode counts as
    from xp.data.splits import first_of_tasks, hold_out

    task_of = {number: text for number, (text,) in tasks.items()}
    sources = [[number for number in each if number in task_of] for each in asked.lists]
    if asked.fraction is not None:
        by_task: dict[str, list[int]] = {}
        for number in sorted(chosen):
            by_task.setdefault(task_of[number], []).append(number)
        sources.append(list(hold_out(by_task, asked.fraction, asked.seed)[1]))
    return {number for each in sources for number in first_of_tasks(each, task_of, asked.limit)}


def _known_tasks(root: Path) -> list[str]:
    from xp.data.lerobot.older import read_older_tasks
    from xp.data.lerobot.tables import read_tasks

    return read_older_tasks(root) if _is_older(root) else read_tasks(root)


def _tasks_of_episodes(root: Path) -> list[tuple[str, ...]]:
    """The tasks of each episode, in order; () where meta/ does not say."""
    if _is_older(root):
        lines = sorted(json_lines(root / "meta" / "episodes.jsonl"), key=lambda line: line.integer("episode_index"))
        return [tuple(line.texts("tasks", [])) for line in lines]
    from xp.data.lerobot.tables import episode_texts, read_episode_table

    return episode_texts(read_episode_table(root, tasks=True), root / "meta" / "episodes")


def _is_older(root: Path) -> bool:
    return _description(root).text("codebase_version", "") in VERSIONS
