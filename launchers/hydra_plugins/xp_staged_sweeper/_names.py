"""Names of jobs, which are the names of their folders: short, the same each time, safe in any shell and file system."""

from collections.abc import Mapping
from pathlib import Path

from hydra_plugins.xp_staged_sweeper._values import bare, safe_name
from xp.runs.folder import RECORD
from xp.runs.record import Record
from xp.runs.submitted import never_begun

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


def _last_part(value: str) -> str:
    return value.rstrip("/\"'").rpartition("/")[2] if "/" in value else value
