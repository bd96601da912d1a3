"""Copies what stands beside the weights into the merged checkpoint: configuration, processors, statistics."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from xp import atomic
from xp.checkpoints.open import STEP
from xp.checkpoints.peft_config import CONFIG as ADAPTER_CONFIG
from xp.checkpoints.sidecar import statistics_files
from xp.errors import UserError, some
from xp.foreign.json_file import read_object
from xp.foreign.paths import member
from xp.foreign.text import printable
from xp.merging.statistics import Pooled, write_like

_KEPT = re.compile(r".+\.(json|txt|msgpack|model|jinja|yaml)|policy_.+\.safetensors")
"""Small files of the model; never code, pickles, optimiser states or other weights."""
_ADDED = re.compile(r"tokenizer|special_tokens|added_tokens|vocab|merges|chat_template|spiece|.*statistics|norm_stats")
"""What an adapter without a configuration of its own adds to the sidecar files of its base."""
_PARTS = re.compile(r".+--(?:[0-9]+|latest)_checkpoint\.pt")
"""Pickles in which a training keeps parts of a model beside its safetensors (OpenVLA-OFT: head, projector)."""
_BESIDE_PARAMS = re.compile(r"xp_.+\.json|.*tokenizer\.model")
"""Of an Orbax step: xp's notes and the tokeniser. Other configuration of such a checkpoint is code elsewhere."""
_LEFT = {"merge.json", "model.safetensors.index.json", "adapter_config.json"}
"""Of these the merged checkpoint has its own, or none."""


def copy_sidecar(kind: str, folders: Sequence[Path], output: Path) -> None:
    """Copy the first checkpoint's sidecar files into the output, where its format wants them.

    Args:
        kind: the format.
        folders: where they lie, later ones over earlier ones; of all but the first the tokenizer and the statistics.
        output: the merged checkpoint.
    """
    if kind == "orbax":  # the statistics are written by `write_statistics`
        for folder in folders:
            for file in (file for file in kept_files(folder) if _BESIDE_PARAMS.fullmatch(file.name)):
                shutil.copyfile(file, output / STEP / file.name)
        return
    for number, folder in enumerate(folders):
        for file in kept_files(folder):
            if number == 0 or _ADDED.match(file.name):
                shutil.copyfile(file, output / file.name)
    if any((folder / ADAPTER_CONFIG).is_file() for folder in folders):
        _no_longer_adapter(output)


def kept_files(folder: Path) -> list[Path]:
    """The small files of a folder that describe the model, in order.

    Raises:
        RefusedError: one of them is a link that leads out of the folder, or no regular file.
    """
    names = sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
    wanted = (name for name in names if _KEPT.fullmatch(name) and name not in _LEFT)
    return [member(folder, name, "a small file beside the weights") for name in wanted]


def refuse_parts(folders: Sequence[Path]) -> None:
    """Refuse models of which a part lies in pickles beside the weights: the outcome would be without it.

    Raises:
        UserError: the files, and what to do.
    """
    for folder in folders:
        parts = sorted(entry.name for entry in folder.iterdir() if _PARTS.fullmatch(entry.name))
        if parts:
            raise UserError(
                f"{folder} keeps parts of its model in {printable(some(parts, 4), 400)}, and merging reads "
                "safetensors. Write it as one first, in Python: xp.models.load_policy(FOLDER).save(OTHER); then "
                "merge OTHER."
            )


def _no_longer_adapter(output: Path) -> None:
    """What a configuration says of an adapter does not hold for whole weights: by it the base alone would be loaded."""
    (output / "train_config.json").unlink(missing_ok=True)
    config = output / "config.json"
    if not config.is_file():
        return
    content = read_object(config, "a policy's configuration")
    if content.get("use_peft"):
        changed = {"use_peft": False, **({"pretrained_path": None} if "pretrained_path" in content else {})}
        atomic.write_json(config, {**content, **changed}, durable=False)


def write_statistics(kind: str, folders: Sequence[Path], output: Path, pooled: Pooled) -> None:
    """The statistics files of the checkpoints, as they are or pooled.

    Of an Orbax checkpoint they go to `assets/<asset_id>/norm_stats.json` of the step, where code that serves policies
    looks, and to `norm_stats.json` beside the step, where scripts that average checkpoints look.
    """
    found = [statistics_files(folder) for folder in folders]
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
