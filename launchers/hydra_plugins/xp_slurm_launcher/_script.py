"""The batch script of an array: submitit's options and srun line, our job and what follows it."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra_plugins.xp_slurm_launcher._arrays import Array
from hydra_plugins.xp_slurm_launcher._resources import Resources
from xp.runs import snapshot
from xp.runs.folder import JOB
from xp.runs.reading import read_json

_JOB = "hydra_plugins.xp_slurm_launcher._job"


def batch_script(
    array: Array,
    order: Path,
    *,
    name: str,
    dependency: str | None,
    warn_s: int,
    max_running: int | None,
    python: str | None,
) -> str:
    """The text that sbatch gets.

    The step (our job) hears SLURM's signals; the shell around it outlives them, to tell SLURM what became of the job:
    requeue it, or end with its exit code. A dependency that can no longer be met cancels the job instead of leaving it
    in the queue for ever.

    Args:
        array: the jobs.
        order: the file that tells a job its index's folder.
        name: the job's name in the queue, unique to this submission.
        dependency: value of --dependency.
        warn_s: seconds before the time limit at which SLURM sends USR2.
        max_running: how many of the array's jobs may run at the same time.
        python: the interpreter on the nodes; default: this one.
    """
    parameters = _parameters(array.resources)
    interpreter = python or shlex.quote(sys.executable)
    job = f"{interpreter} -u -m {_JOB}"
    after = [
        "code=$?",
        f"if [ $code -ne 0 ]; then {job} ended {shlex.quote(str(order))} $code; code=$?; fi",
        "exit $code",
    ]
    options = {"requeue": True, "kill-on-invalid-dep": "yes"}
    parameters["additional_parameters"] = {**options, **parameters["additional_parameters"]}
    return _submitit(
        job_name=name,
        command=f"{job} run {shlex.quote(str(order))}",
        folder=order.parent,
        map_count=len(array.jobs) if len(array.jobs) > 1 else None,
        array_parallelism=max_running or len(array.jobs),
        signal_delay_s=warn_s,
        dependency=dependency,
        stderr_to_stdout=True,
        setup=[*array.resources.setup, *_python_path(array), "trap : TERM USR2"],
        teardown=after,
        **parameters,
    )


def _submitit(**parameters: Any) -> str:
    """Submitit's script, without the flags that it always sets and we do not want."""
    from submitit.slurm.slurm import _make_sbatch_string

    unwanted = ["#SBATCH --wckey=submitit"] + ([] if "time" in parameters else ["#SBATCH --time=5"])
    return "\n".join(line for line in _make_sbatch_string(**parameters).split("\n") if line not in unwanted)


def _parameters(resources: Resources) -> dict[str, Any]:
    parameters = resources.parameters()
    if resources.cpus is not None:  # since 22.05 srun does not take this over from sbatch
        parameters["srun_args"] = [f"--cpus-per-task={resources.cpus}"]
    return parameters


def _python_path(array: Array) -> list[str]:
    """The frozen code before everything else on the path."""
    folder = array.jobs[0].folder
    key = read_json(folder / JOB, default={}).get("snapshot")
    roots = snapshot.import_roots(array.experiment, key) if key else []
    if not roots:
        return []
    return ["export PYTHONPATH=" + shlex.quote(os.pathsep.join(map(str, roots))) + '"${PYTHONPATH:+:$PYTHONPATH}"']


def order_text(array: Array, token: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a job of the array reads on its node."""
    return {"token": token, "job_id": None, "jobs": [str(job.folder) for job in array.jobs], **settings}
