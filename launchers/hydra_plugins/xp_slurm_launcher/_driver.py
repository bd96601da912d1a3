"""On the cluster: hand in the jobs of an experiment that SLURM had no room for (`python -m ..._driver EXPERIMENT`)."""

import json
import os
import sys
import time
from pathlib import Path

from hydra_plugins.xp_slurm_launcher._commands import patiently
from hydra_plugins.xp_slurm_launcher._executor import SlurmExecutor
from hydra_plugins.xp_slurm_launcher._job_specs import submission_lock
from hydra_plugins.xp_slurm_launcher._later import SETTINGS, handles_of, read_rest, write_rest
from hydra_plugins.xp_slurm_launcher._sbatch import SECRETS
from xp.errors import UserError
from xp.runs.executors.submitted import note_handle, submit_and_note

_PATIENCE_S = 3600.0
_AGAIN_S = 20.0


def main(arguments: list[str]) -> int:
    """Gives the exit code."""
    experiment, me = Path(arguments[0]), os.environ.get("SLURM_JOB_ID", "")
    executor = SlurmExecutor(**json.loads(os.environ.pop(SETTINGS, "{}")))
    executor.hidden.update(json.loads(os.environ.pop(SECRETS, "{}")))
    try:
        while not patiently(lambda: hand_in(executor, experiment, me), _PATIENCE_S, lambda w: print(w, flush=True)):
            time.sleep(_AGAIN_S)
    except UserError as error:
        print(f"xp: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def hand_in(executor: SlurmExecutor, experiment: Path, driver: str) -> bool:
    """Submit what has room, if `driver` is still who shall do that; gives whether it may go.

    It stays if there was no room for another of its kind, and some jobs still wait.

    Raises:
        SlurmUnavailable: SLURM does not answer.
    """
    with submission_lock(experiment):
        named, jobs = read_rest(experiment)
        if named != driver:
            print("Another call has taken over what waited for room.")
            return True
        for job, handle in zip(jobs, submit_and_note(executor, jobs)):
            print(f"{job.stage}/{job.folder.name} -> slurm {handle}", flush=True)
        successor, left = read_rest(experiment)
        if successor or not left:
            return True
        write_rest(experiment, driver, left)
        for folder, handle in handles_of(driver, left).items():
            note_handle(folder, executor.name, handle)
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
