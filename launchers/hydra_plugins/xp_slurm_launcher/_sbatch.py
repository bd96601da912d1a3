"""How anything gets to sbatch: what scripts say, what goes into the environment, and what an answer means."""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra_plugins.xp_slurm_launcher import _commands
from hydra_plugins.xp_slurm_launcher._arrays import Array
from hydra_plugins.xp_slurm_launcher._commands import SlurmUnavailable
from hydra_plugins.xp_slurm_launcher._job_specs import lock_descriptor
from hydra_plugins.xp_slurm_launcher._refusals import NoRoom, no_room, refusal
from hydra_plugins.xp_slurm_launcher._resources import Resources
from hydra_plugins.xp_slurm_launcher._script import batch_script, driver_script
from hydra_plugins.xp_slurm_launcher._state import Watcher, job_named
from xp.json_types import JSONObject
from xp.runs.executors.protocol import Submission
from xp.runs.jobs.frozen import secrets_of

SECRETS = "XP_JOB_SECRETS"
"""Environment variable that carries secrets of jobs' configurations: no file holds them."""
_LOST_S = (0.0, 1.0, 3.0)
"""When to ask for a submission whose answer was lost."""


@dataclass
class Sbatch:
    """The launcher's settings as sbatch needs them."""

    resources: Callable[[Submission], Resources]
    driver_resources: Callable[[], Sequence[Resources]]
    """What to ask for the job that hands in the rest, the smallest request first."""
    watcher: Watcher
    settings: JSONObject
    """What the jobs read from their job spec."""
    given: JSONObject
    """The launcher's settings, for the job that hands in the rest."""
    warn_s: int
    max_running: int | None
    python: str | None
    hidden: dict[str, dict[str, str]] = field(default_factory=dict)
    """{folder: secrets} that came to this process through its environment."""

    def submit(self, script: Path, token: str, array: Array, more: Mapping[str, str] | None = None) -> str:
        """Submit a script under the lock; gives SLURM's id.

        Raises:
            NoRoom: a limit on jobs in the queue.
            SlurmUnavailable: SLURM does not answer; whether it has the jobs is found out by whoever calls next.
            UserError: refused.
        """
        environment = {**self.environment(array.jobs), **(more or {})}
        try:
            answer = _commands.call(
                "sbatch", "--parsable", str(script), environment=environment,
                inherited=lock_descriptor(array.experiment),
            )  # fmt: skip
        except SlurmUnavailable:
            return _found(token)
        if answer.code:
            limit = no_room(answer)
            raise NoRoom(limit) if limit else refusal(answer, array.resources)
        job_id = answer.out.strip().partition(";")[0]
        return job_id if job_id.isdigit() else _found(token)

    def environment(self, jobs: Iterable[Submission]) -> dict[str, str]:
        """The environment that jobs get: this process's, and their secrets."""
        folders = [job.folder for job in jobs]
        hidden = {str(each): secrets_of(each) or self.hidden.get(str(each), {}) for each in folders}
        hidden = {folder: found for folder, found in hidden.items() if found}
        environment = _commands.clean_environment()
        if hidden:
            environment[SECRETS] = json.dumps(hidden)
        return environment | {"PYTHONUNBUFFERED": os.environ.get("PYTHONUNBUFFERED", "1")}

    @property
    def given_text(self) -> str:
        """The launcher's settings as the driver reads them."""
        return json.dumps(dict(self.given))

    def driver_text(self, array: Array, folder: Path, name: str, begin: str) -> str:
        """The script of the job that hands in the rest."""
        return driver_script(array, folder, name=name, python=self.python, begin=begin)

    def script(self, array: Array, job_spec: Path, name: str, needs: str | None) -> str:
        """The text of an array's batch script for the job spec at `job_spec`."""
        return batch_script(
            array, job_spec, name=name, dependency=needs, warn_s=self.warn_s, max_running=self.max_running,
            python=self.python,
        )  # fmt: skip


def _found(token: str) -> str:
    """The id of a submission whose answer was lost.

    Raises:
        SlurmUnavailable: SLURM does not answer, or does not know it (yet): the job spec stays, and whoever calls next
            asks again.
    """
    for pause in _LOST_S:
        time.sleep(pause)
        if (job_id := job_named(token)) is not None:
            return job_id
    raise SlurmUnavailable(
        "SLURM has not answered sbatch, and does not know the jobs. The same command asks again and submits what is "
        "missing. Look with: scontrol ping"
    )
