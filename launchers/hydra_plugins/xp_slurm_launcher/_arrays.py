"""Which jobs go into one array, and what each array waits for. Pure: no SLURM here.

SLURM hangs a dependency on a whole array, so jobs share an array exactly if they need the same jobs: then each starts
as soon as those it needs are done, whatever the rest of their stage still does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra_plugins.xp_slurm_launcher._resources import Resources
from xp.runs.executors.protocol import Submission


@dataclass(frozen=True)
class Array:
    """Jobs that one call of sbatch submits; a single job is no array for SLURM, its handle has no index."""

    jobs: tuple[Submission, ...]
    resources: Resources

    @property
    def experiment(self) -> Path:
        """The folder of the jobs' experiment."""
        return self.jobs[0].folder.parent

    def handles(self, job_id: str) -> list[str]:
        """The jobs' handles, given the id that SLURM gave the array."""
        return [job_id] if len(self.jobs) == 1 else [f"{job_id}_{number}" for number in range(len(self.jobs))]

    def split(self, first: int) -> tuple["Array", "Array"]:
        """Two arrays: the first so many jobs, and the others."""
        return Array(self.jobs[:first], self.resources), Array(self.jobs[first:], self.resources)


def arrays(
    jobs: Sequence[Submission], resources: Callable[[Submission], Resources], largest: int = 1000
) -> list[Array]:
    """Jobs (needs before those that need them) as arrays of at most `largest` jobs, in an order that keeps this.

    Jobs with a handle are with SLURM already and are left out.
    """
    groups: dict[object, list[Submission]] = {}
    requests: dict[object, Resources] = {}
    for job in jobs:
        if job.handle:
            continue
        asked = resources(job)
        key = (job.folder.parent, job.stage, frozenset(job.needs), job.always, repr(asked))
        groups.setdefault(key, []).append(job)
        requests[key] = asked
    return [
        Array(tuple(group[start : start + largest]), requests[key])
        for key, group in groups.items()
        for start in range(0, len(group), largest)
    ]


def dependency(array: Array, handles: Mapping[Path, str], sizes: Mapping[str, int]) -> str | None:
    """The value of sbatch's --dependency; None without needs.

    Args:
        array: the jobs to submit.
        handles: {folder: handle} of everything submitted before; needs without one have ended as they should.
        sizes: {array id: number of its jobs}; an array that is needed whole is named once.
    """
    needed = [handles[need] for need in array.jobs[0].needs if need in handles]
    if not needed:
        return None
    by_id: dict[str, list[str]] = {}
    for handle in needed:
        by_id.setdefault(handle.partition("_")[0], []).append(handle)
    terms = [
        term
        for job_id, members in by_id.items()
        for term in ([job_id] if len(members) == sizes.get(job_id) else members)
    ]
    return ":".join(["afterany" if array.jobs[0].always else "afterok", *terms])


class Room:
    """How large an array may be, found by trying: SLURM says only that a request was too large.

    The room is never asked for: other jobs of the same user come and go, and limits stand in several places.
    """

    def __init__(self):
        self._most: int | None = None

    @property
    def full(self) -> bool:
        """Whether not even a single job had room."""
        return self._most == 0

    def size(self, wanted: int) -> int:
        """How many of `wanted` jobs to try next."""
        return wanted if self._most is None else min(wanted, max(1, (self._most + 1) // 2))

    def refused(self, size: int) -> None:
        """So many had no room."""
        self._most = size - 1 if self._most is None else min(self._most, size - 1)

    def taken(self, size: int) -> None:
        """So many were taken."""
        if self._most is not None:
            self._most = max(0, self._most - size)
