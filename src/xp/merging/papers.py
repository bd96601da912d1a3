"""What stands beside the weights of a merged checkpoint: configuration, processors, statistics; and leftovers."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from xp.merging.checkpoints import STEP
from xp.merging.statistics import Pooled, statistics_files, write_like

_KEPT = re.compile(r".+\.(json|txt|msgpack|model|jinja|yaml)|policy_.+\.safetensors")
"""Small files of the model; never code, pickles, optimiser states or other weights."""
_LEFT = {"merge.json", "model.safetensors.index.json", "adapter_config.json"}
"""Of these the merged checkpoint has its own, or none."""


def copy_papers(kind: str, papers: Path, output: Path) -> None:
    """Copy the first checkpoint's papers into the output, where its format wants them."""
    if kind == "orbax":
        return  # openpi keeps its configuration in code; the statistics are written by `write_statistics`
    for file in sorted(papers.iterdir()):
        if file.is_file() and _KEPT.fullmatch(file.name) and file.name not in _LEFT:
            shutil.copyfile(file, output / file.name)


def write_statistics(kind: str, papers: Sequence[Path], output: Path, pooled: Pooled) -> None:
    """The statistics files of the checkpoints, as they are or pooled.

    openpi's go to `assets/<asset_id>/norm_stats.json` of the step, where its `create_trained_policy` looks, and to
    `norm_stats.json` beside the step, where the model-arithmetic scripts look.
    """
    found = [statistics_files(folder) for folder in papers]
    changed = dict(pooled.changed)
    for name in found[0]:
        target = output / _place(kind, name)
        if name in changed:
            write_like([files[name] for files in found], target, changed[name])
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found[0][name], target)
    assets = [name for name in found[0] if name.startswith("assets/")]
    if len(assets) == 1 and "norm_stats.json" not in found[0]:
        shutil.copyfile(output / _place(kind, assets[0]), output / "norm_stats.json")


def _place(kind: str, name: str) -> str:
    return f"{STEP}/{name}" if kind == "orbax" and name.startswith("assets/") else name


def sweep_stale(output: Path) -> None:
    """Remove what killed merges into the same output left beside it."""
    pattern = re.compile(re.escape(f".{output.name[:80]}.tmp-") + r"(\d+)-[0-9a-f]{8}")
    for found in output.parent.iterdir() if output.parent.is_dir() else ():
        match = pattern.fullmatch(found.name)
        if match and found.is_dir() and not _alive(int(match[1])):
            shutil.rmtree(found, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
