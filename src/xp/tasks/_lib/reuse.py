"""Reuses the result of a finished training that has the same configuration, instead of training again."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf

from xp.config import result_config
from xp.runs import Run, RunFolder
from xp.runs.jobs.frozen import open_job
from xp.runs.jobs.identity import differing_keys
from xp.runs.records.record import State

OWN = ("job.json", "config.json", "record.json", "log.txt", "progress.json", "heartbeat.json", ".hydra", "*.tmp*")
"""What stays each run's own; everything else is its result."""
LARGE = 1 << 20
"""Bytes from which on a file is linked."""


def reuse_identical_run(run: Run) -> bool:
    """Take the result of a needed training of the same configuration over, if there is one; says so in the log.

    Only jobs that an experiment file joins (`needs`) are looked at. Weights are linked, not copied, and take no room.
    """
    mine = result_config(OmegaConf.to_container(run.config, resolve=True))  # type: ignore[arg-type]
    for need in open_job(run.folder).needs:
        other = RunFolder(need.folder)
        if other.record().state is not State.DONE or other.config().task.name != "train":
            continue
        theirs = result_config(OmegaConf.to_container(other.config(), resolve=True))  # type: ignore[arg-type]
        if not differing_keys(mine, theirs):
            _link(need.folder, run.folder)
            run.log(f"{need.folder.name} was trained with exactly this configuration: its result is taken over.")
            return True
    return False


def _link(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, symlinks=True, copy_function=_linked, ignore=shutil.ignore_patterns(*OWN), dirs_exist_ok=True
    )


def _linked(source: str, target: str) -> None:
    """A second name for a large file; a copy of a small one (logs grow in place), or where there are no links."""
    Path(target).unlink(missing_ok=True)
    if Path(source).stat().st_size >= LARGE:
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
