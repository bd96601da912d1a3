"""The batch script of an array: submitit's options and srun line, our job and what follows it."""

import os
import shlex
import sys
from pathlib import Path

from hydra_plugins.xp_slurm_launcher._arrays import Array
from hydra_plugins.xp_slurm_launcher._options import name_of, one_line
from hydra_plugins.xp_slurm_launcher._resources import Resources, SbatchParameters
from xp.errors import UserError
from xp.foreign.text import shown
from xp.runs.jobs import snapshot
from xp.runs.records.folder import JOB
from xp.runs.records.json_io import read_object

_JOB = "hydra_plugins.xp_slurm_launcher._job"
_DRIVER = "hydra_plugins.xp_slurm_launcher._driver"
FIRST = ":"
"""The first command: behind it sbatch reads no more options, whatever a set-up line looks like."""


def batch_script(
    array: Array,
    job_spec: Path,
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
        job_spec: the file that tells a job its index's folder.
        name: the job's name in the queue, unique to this submission.
        dependency: value of --dependency.
        warn_s: seconds before the time limit at which SLURM sends USR2.
        max_running: how many of the array's jobs may run at the same time.
        python: the interpreter on the nodes; default: this one.

    Raises:
        UserError: the experiment's folder has a name that SLURM does not take as it stands.
    """
    _refuse_patterns(job_spec.parent)
    parameters = _parameters(array.resources)
    job = f"{interpreter(python)} -u -m {_JOB}"
    after = [
        "code=$?",
        f"if [ $code -ne 0 ]; then {job} ended {shlex.quote(str(job_spec))} $code; code=$?; fi",
        "exit $code",
    ]
    options: dict[str, str | bool] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    parameters["additional_parameters"] = {**options, **parameters["additional_parameters"]}
    return _submitit(
        job_name=name,
        command=f"{job} run {shlex.quote(str(job_spec))}",
        folder=job_spec.parent,
        map_count=len(array.jobs) if len(array.jobs) > 1 else None,
        array_parallelism=max_running or len(array.jobs),
        signal_delay_s=warn_s,
        dependency=dependency,
        stderr_to_stdout=True,
        setup=[FIRST, *array.resources.setup, *_python_path(array), "trap : TERM USR2"],
        teardown=after,
        **parameters,
    )


def _submitit(**parameters: object) -> str:
    """Submitit's script, without the flags that it always sets and we do not want."""
    from submitit.slurm.slurm import _make_sbatch_string

    unwanted = ["#SBATCH --wckey=submitit"] + ([] if "time" in parameters else ["#SBATCH --time=5"])
    text = _make_sbatch_string(**parameters)  # type: ignore[arg-type]
    return "\n".join(line for line in text.split("\n") if line not in unwanted)


def _parameters(resources: Resources) -> SbatchParameters:
    parameters = resources.parameters()
    if resources.cpus is not None:  # since 22.05 srun does not take this over from sbatch
        parameters["srun_args"] = [f"--cpus-per-task={resources.cpus}"]
    return parameters


def _python_path(array: Array) -> list[str]:
    """The frozen code before everything else on the path."""
    folder = array.jobs[0].folder
    key = read_object(folder / JOB, default={}).get("snapshot")
    roots = snapshot.import_roots(array.experiment, str(key)) if key else []
    if not roots:
        return []
    return ["export PYTHONPATH=" + shlex.quote(os.pathsep.join(map(str, roots))) + '"${PYTHONPATH:+:$PYTHONPATH}"']


def interpreter(python: str | None) -> str:
    """The interpreter as a word of the shell; a leading ~/ is the home folder of whoever runs the job.

    Raises:
        UserError: it is no path of one line.
    """
    if python is None:
        return shlex.quote(sys.executable)
    path = name_of(python, "hydra.launcher.python")
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def driver_script(array: Array, folder: Path, *, name: str, python: str | None, begin: str) -> str:
    """The text of the small job that hands in the jobs SLURM had no room for."""
    _refuse_patterns(folder)
    experiment = shlex.quote(str(folder.parent))
    parameters = array.resources.parameters()
    own = parameters["additional_parameters"]
    return _submitit(
        job_name=name,
        command=f"exec {interpreter(python)} -u -m {_DRIVER} {experiment}",
        folder=folder,
        use_srun=False,
        stderr_to_stdout=True,
        setup=[FIRST, *array.resources.setup, *_python_path(array)],
        **{**parameters, "additional_parameters": {"requeue": True, "begin": begin, **own}},
    )


def _refuse_patterns(folder: Path) -> None:
    """SLURM reads % and backslashes in the names of output files, and a script has one option on a line."""
    text = one_line(folder, "hydra.sweep.dir")
    if "%" in text or "\\" in text:
        raise UserError(
            f"hydra.sweep.dir={shown(folder.parent)}: SLURM reads % and \\ in file names as patterns. Choose a folder "
            "without them: hydra.sweep.dir=FOLDER"
        )
