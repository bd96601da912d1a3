"""Which files a dataset of TFDS has, by `dataset_info.json`. Imports nothing heavy.

A dataset is a folder of one version, NAME/1.0.0; the folder NAME is taken for it where it holds one version only.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xp.data.rlds.features import FILE as FEATURES
from xp.errors import UserError, did_you_mean, join_names
from xp.foreign.json_file import Fields, read_fields
from xp.foreign.paths import inside, regular_file
from xp.foreign.text import printable

INFO, WHAT, SHARD = "dataset_info.json", "TFDS's description of the files", "a file of episodes"
FORMAT = "tfrecord"
_DEFAULT = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_SPLIT = r"[\w.-]{1,200}"
_PLACES = re.compile(r"\{([A-Z_]+)\}")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_MOST_ENTRIES = 1000
_MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class Shard:
    """One file of a split."""

    path: Path
    episodes: int
    """How many dataset_info.json says it holds."""


def looks_like(root: str | Path) -> bool:
    """Whether a folder, or a folder of a version in it, is of TFDS by the names in it. Never raises."""
    try:
        place = Path(root).expanduser()
    except RuntimeError:  # no home
        return False
    return _is_version(place) or bool(_versions(place))


def version_folder(root: Path) -> Path:
    """The folder of the version that is meant.

    Raises:
        UserError: the folder holds several.
    """
    if _is_version(root):
        return root
    found = _versions(root)
    if len(found) != 1:
        raise UserError(
            f"{root} holds {len(found)} versions of a dataset of TFDS ({join_names(found) or 'none'}): expected one. "
            f"Give the version: data.root={root / (found[-1] if found else 'VERSION')}"
        )
    return inside(root, found[0], "the folder of a version")


def shards(folder: Path, wanted: Sequence[str], key: str) -> list[Shard]:
    """The files of splits, one split after the other, in their order.

    Args:
        folder: of a version.
        wanted: names of splits.
        key: the configuration's key of `wanted`, for the message.

    Raises:
        UserError: dataset_info.json is missing or damaged, there is no such split, or a file is missing; or the files
            are of another format than TFRecord.
    """
    info = read_fields(regular_file(inside(folder, INFO, WHAT), WHAT), WHAT)
    kind = info.text("fileFormat", FORMAT)
    if kind != FORMAT:
        raise UserError(
            f"{info.source}: the files are of the format {printable(kind, 40)}: expected {FORMAT}. Write the dataset "
            f"again with TFDS: builder.download_and_prepare(file_format='{FORMAT}')"
        )
    splits = {each.text("name", pattern=_SPLIT): each for each in info.list_of_objects("splits", [])}
    unknown = [name for name in wanted if name not in splits]
    if unknown:
        raise UserError(
            f"{key}: {printable(folder)} has no split {unknown[0]!r}{did_you_mean(unknown[0], splits)}; it has "
            f"{join_names(splits) or 'none'}. Type for instance {key}=[{next(iter(splits), 'NAME')}]"
        )
    return [shard for name in dict.fromkeys(wanted) for shard in _of_split(folder, info, splits[name], name)]


def _of_split(folder: Path, info: Fields, split: Fields, name: str) -> list[Shard]:
    given = split.content.get("shardLengths") or []
    lengths = [str(each) for each in given] if isinstance(given, list) else ["not a list"]
    if len(lengths) > _MOST_SHARDS or not all(re.fullmatch(r"\d{1,9}", length) for length in lengths):
        raise split.refusal("shardLengths", f"a list of at most {_MOST_SHARDS:,} numbers of episodes")
    template = split.text("filepathTemplate", _DEFAULT, most=255) or _DEFAULT
    dataset = info.text("name", most=200)
    return [
        Shard(inside(folder, _filled(split, template, dataset, name, number, len(lengths)), SHARD), int(episodes))
        for number, episodes in enumerate(lengths)
    ]


def _filled(split: Fields, template: str, dataset: str, name: str, number: int, count: int) -> str:
    """The name of a file (tensorflow_datasets/core/utils/shard_utils.py's template)."""
    values = {
        "DATASET": dataset,
        "SPLIT": name,
        "FILEFORMAT": FORMAT,
        "SHARD_INDEX": f"{number:05}",
        "NUM_SHARDS": f"{count:05}",
        "SHARD_X_OF_Y": f"{number:05}-of-{count:05}",
    }
    if any(place not in values for place in _PLACES.findall(template)):
        raise split.refusal("filepathTemplate", f"a file's name with {join_names(f'{{{each}}}' for each in values)}")
    return _PLACES.sub(lambda found: values[found[1]], template)


def _is_version(folder: Path) -> bool:
    return os.path.lexists(folder / INFO) and (
        os.path.lexists(folder / FEATURES) or any(f".{FORMAT}" in name for name in _names(folder))
    )


def _versions(folder: Path) -> list[str]:
    return [name for name in sorted(_names(folder)) if _VERSION.fullmatch(name) and _is_version(folder / name)]


def _names(folder: Path) -> list[str]:
    """The first names in a folder; none of what is no folder or may not be listed."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry, _ in zip(entries, range(_MOST_ENTRIES), strict=False)]
    except OSError:
        return []
