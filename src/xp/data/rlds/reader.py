"""Reading datasets in RLDS (Ramos et al., "RLDS: an Ecosystem to Generate, Share and Use Datasets in Reinforcement
Learning", 2021) as TensorFlow Datasets writes them: files of TFRecord, each record a tf.train.Example with one episode.

Every field of all steps is one list there: an action of 7 numbers in 30 steps is 210 floats, a camera is 30 encoded
pictures. `features.json` says what each is, `dataset_info.json` which files there are and how many episodes each holds.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np

from xp.data.cache_store import CacheStore
from xp.data.column_files import SMALL
from xp.data.rlds.columns import mapped_content
from xp.data.rlds.content import Content, read_content
from xp.data.rlds.dataset import RldsDataset
from xp.data.rlds.features import FILE, Field, read_features
from xp.data.rlds.folder import INFO, SHARD, shards, version_folder
from xp.data.rlds.frames import WHAT
from xp.data.rlds.reading import ChosenFields, Reading, choose_fields
from xp.errors import UserError
from xp.foreign.paths import MissingError, opened, regular_file
from xp.foreign.picture import read_header
from xp.foreign.text import printable
from xp.json_types import JSON


def open_folder(
    root: Path,
    told: Reading,
    *,
    decoder: str = "auto",
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
) -> RldsDataset:
    """Open a dataset of TFDS in RLDS, checking all of it but the pixels.

    Args:
        root: the folder of a version, or one that holds a single version.
        told: what the files do not say.
        decoder: of videos, of which there are none.
        cache_dir: where the numbers of a large dataset are kept, read once; None: each process reads all files.
        cache_gb: bound on that folder in gigabytes (10^9 bytes).

    Raises:
        UserError: missing, damaged or contradictory files, fields that are not there, NaN or infinity.
    """
    folder = version_folder(root)
    chosen = choose_fields(told, read_features(folder), root)
    files = shards(folder, told.splits, f"{told.key}.splits")
    size = sum(_size(each.path) for each in files)
    paths = tuple(each.path for each in files)

    def read() -> Content:
        return read_content(root, files, told, chosen)

    if cache_dir is None or size < SMALL:
        content = read()
    else:
        dims = _width(chosen.action), _width(chosen.state), len(chosen.cameras)
        described = [folder / FILE, folder / INFO, *paths]
        episodes = sum(each.episodes for each in files)
        store = CacheStore(Path(cache_dir), cache_gb)
        content = mapped_content(root, described, section_of(told), dims, episodes, read, store)
    return RldsDataset(
        root=root,
        fps=told.fps,
        tasks=content.tasks,
        lengths=content.lengths,
        episode_tasks=content.task_index,
        action=content.action,
        state=content.state,
        cameras=_sizes(chosen, content, paths),
        action_names=_names(chosen.action),
        state_names=_names(chosen.state),
        decoder=decoder,
        content=content,
        shards=paths,
        reading=section_of(told),
    )


def _size(path: Path) -> int:
    """Bytes of one of the files."""
    try:
        return regular_file(path, SHARD).stat().st_size
    except MissingError as error:
        raise UserError(
            f"There is no file {printable(path)}, which {INFO} names as one of the dataset's. Copy it from where the "
            "dataset came from."
        ) from error


def section_of(told: Reading) -> dict[str, JSON]:
    """The section `data.read` that means this, without what it leaves open."""
    given = {each.name: getattr(told, each.name) for each in fields(Reading) if each.name != "key"}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value is not None
    }


def _width(chosen: tuple[Field, ...]) -> int:
    return sum(each.width for each in chosen)


def _names(chosen: tuple[Field, ...]) -> tuple[str, ...]:
    """Of the dimensions: the field's name, and a number where it has several."""
    found: list[str] = []
    for each in chosen:
        name = each.path.rpartition("/")[2]
        found += [name] if each.width == 1 else [f"{name}_{place}" for place in range(each.width)]
    return tuple(found)


def _sizes(chosen: ChosenFields, content: Content, paths: tuple[Path, ...]) -> dict[str, tuple[int, int, int]]:
    """{camera: (height, width, 3)}: as announced, else that of the first picture."""
    found: dict[str, tuple[int, int, int]] = {}
    for number, (name, each) in enumerate(chosen.cameras.items()):
        height, width = each.shape[:2]
        if height is None or width is None:
            header = _first_header(paths[int(content.file[0])], content.spans[0, number], name)
            height, width = header
        found[name] = (height, width, 3)
    return found


def _first_header(path: Path, span: np.ndarray, camera: str) -> tuple[int, int]:
    with opened(path, WHAT) as file:
        file.seek(int(span[0]))
        header = read_header(file.read(int(span[1])), f"{printable(path)}: the first picture of camera '{camera}'")
    return header.height, header.width
