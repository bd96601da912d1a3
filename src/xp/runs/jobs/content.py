"""The content of an input in one number: that of the files that a run reads, wherever they lie."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from xp.errors import UserError
from xp.json_types import JSONObject


def content_of(config: JSONObject, key: str, path: Path, digests: Mapping[str, str]) -> str:
    """64 hex digits: the sha256 of the names and digests of the files that are read.

    A dataset by its folder, by an id of a hub, and on a node has the same: files that its format does not read, and
    videos of cameras and episodes that the task does not, do not count, so it is no matter whether they are there.

    Args:
        config: the resolved configuration.
        key: the key that names the input: "data.root".
        path: where it lies.
        digests: {file, relative to `path`: its digest}.
    """
    names = _read(config, key, path, digests) if key.rpartition(".")[2] in ("root", "data_root") else digests
    lines = (f"{name}\0{digests[name]}\n" for name in sorted(names))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(config: JSONObject, key: str, path: Path, names: Collection[str]) -> Collection[str]:
    from xp.config.dataset_facts import PartlyReadFormat, find_format
    from xp.config.hub_keys import path_of
    from xp.config.parts_read import part_read
    from xp.hub.choice import fits

    found = find_format(path)
    patterns = getattr(found, "reads", ())
    names = [name for name in names if fits(name, patterns)] if patterns else list(names)
    if not isinstance(found, PartlyReadFormat):
        return names
    try:
        return found.files_of_part(path, names, part_read(config, path_of(key), path))
    except UserError:  # what is wrong is told by whoever opens the dataset
        return names
