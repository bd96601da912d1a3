"""Paths of the files of a LeRobotDataset: the patterns of `meta/info.json`, filled in and kept inside its folder."""

import os
import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from xp.errors import UserError
from xp.foreign.paths import inside
from xp.foreign.text import printable

_LONGEST = 512
_SPEC = re.compile(r"(0?\d{1,2})?d?")
"""Widths below 100: a wider one would only cost memory."""


def checked_pattern(pattern: str, fields: tuple[str, ...], what: str) -> str:
    """A pattern that names nothing but `fields`, each as `{chunk_index}` or `{chunk_index:03d}`.

    Args:
        pattern: as meta/info.json has it.
        fields: the allowed names.
        what: what it is, for the message: "PATH: data_path".

    Raises:
        UserError: another field, a part of one (`{a.b}`, `{a[0]}`), a conversion, a wide format, or a long pattern.
    """
    allowed = " and ".join(f"{{{name}}}" for name in fields)
    refused = UserError(
        f"{what} is {printable(repr(pattern), 80)}: expected a path inside the dataset with {allowed}, such as "
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet. Correct meta/info.json, or copy the dataset again."
    )
    if not pattern or len(pattern) > _LONGEST:
        raise refused
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise refused from error
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        numbers = _SPEC.fullmatch(spec or "") is not None and (not spec or name != "video_key")
        if name not in fields or conversion or not numbers:
            raise refused
    return pattern


def places(root: Path, pattern: str, what: str, fields: Iterable[Mapping[str, int | str]]) -> list[Path]:
    """The files that a checked pattern names, as `place` gives each; a folder is looked at once for all of its files.

    Raises:
        UserError: a path leads out of the folder.
    """
    found, seen = list[Path](), set[str]()
    for each in fields:
        text = pattern.format(**each)
        folder, _, name = text.rpartition("/")
        path = os.path.join(root, text)  # noqa: PTH118 - a hundred thousand of them where each episode has its own
        if folder and folder not in seen:
            inside(root, folder, what)
            seen.add(folder)
        if not folder or name in ("", "..") or "\0" in name or os.path.islink(path):  # noqa: PTH114
            inside(root, text, what)
        found.append(Path(path))
    return found


def place(root: Path, pattern: str, what: str, **fields: int | str) -> Path:
    """The file that a checked pattern names; it may be missing.

    Raises:
        UserError: the path leads out of the folder.
    """
    return inside(root, pattern.format(**fields), what)
