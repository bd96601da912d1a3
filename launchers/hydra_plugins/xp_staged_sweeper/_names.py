"""Names of jobs, which are the names of their folders: short, the same each time, safe in any shell and file system."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._values import bare, safe_name
from xp.errors import UserError
from xp.foreign.text import printable
from xp.runs.executors.submitted import never_begun
from xp.runs.records.folder import RECORD
from xp.runs.records.record import Record

MOST = 100
"""Bytes of a name."""
_HASH = 8


def swept_name(values: Mapping[str, str], otherwise: str = "job") -> str:
    """A plain sweep's job by what is swept, in the order given: `lr.peak_0.0001-seed_3`; of a path its last part."""
    return safe_name("-".join(f"{bare(key)}_{_last_part(value)}" for key, value in values.items()) or otherwise, MOST)


class Names:
    """Gives each job of a plain sweep a folder of its own, and the same one each time.

    Sweeps of the same keys meet in one folder, whatever else they set. A job whose name belongs to a run of another
    identity gets its own identity's first digits behind the name; where it has such a folder already, that is its own.
    """

    def __init__(self, folder: Path):
        self._folder, self._fresh = folder, not folder.is_dir()
        self._taken: dict[str, str] = {}
        self.told_apart = 0
        """How many names were lengthened."""

    def free(self, name: str, identity: str) -> str:
        """`name`, or `name-HASH`."""
        longer = f"{name[: MOST - _HASH - 1]}-{identity[:_HASH]}"
        known = not self._fresh and (self._is_run(longer) or self._is_anothers(name, identity))
        if known or self._taken.setdefault(name, identity) != identity:
            self.told_apart += 1
            return longer
        return name

    def _is_run(self, name: str) -> bool:
        return (self._folder / name / RECORD).is_file()

    def _is_anothers(self, name: str, identity: str) -> bool:
        folder = self._folder / name
        known = Record(folder / RECORD).get("identity")
        return known not in (None, identity) and not never_begun(folder)


def hydra_subdir(composer: Composer, config: DictConfig, overrides: Sequence[str], number: int) -> str:
    """What `hydra.sweep.subdir` gives for a job, as Hydra's own sweeper would name its folder.

    Args:
        composer: of the sweep.
        config: the job's configuration, unresolved.
        overrides: the job's.
        number: the job's place in the sweep, from 0 (`hydra.job.num`).

    Raises:
        UserError: it is no name of one folder.
    """
    content: Any = OmegaConf.to_container(config, resolve=False)
    hydra: Any = OmegaConf.to_container(composer.hydra_of(overrides).hydra, resolve=False)
    content["hydra"] = hydra
    rules = hydra["job"]["config"]["override_dirname"]
    dirname = get_overrides_dirname(
        composer.parse(overrides), rules["exclude_keys"], item_sep=rules["item_sep"], kv_sep=rules["kv_sep"]
    )
    hydra["job"] |= {"num": number, "id": str(number), "override_dirname": dirname}
    name = str(OmegaConf.create(content).hydra.sweep.subdir)
    if not name or name.startswith(".") or "/" in name or not name.isprintable() or len(os.fsencode(name)) > 255:
        raise UserError(
            f"hydra.sweep.subdir gives {printable(name)!r} for job {number}: expected the name of one folder, at most "
            "255 bytes, that does not begin with a dot. Leave it out to name jobs by what is swept."
        )
    return name


def _last_part(value: str) -> str:
    return value.rstrip("/\"'").rpartition("/")[2] if "/" in value else value
