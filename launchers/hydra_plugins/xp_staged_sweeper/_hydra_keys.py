"""Keys of Hydra's own section on the command line of a sweep: honoured, or refused by name; nothing is passed over."""

from collections.abc import Iterable

from xp.errors import UserError

SUBDIR = "hydra.sweep.subdir"
_READ = (
    "hydra.sweep.dir",
    SUBDIR,
    "hydra.searchpath",
    "hydra.mode",
    "hydra.job.name",
    "hydra.sweeper",
    "hydra.launcher",
)
_INSTEAD = {
    "hydra.run.dir": "it is the folder of a single run. The folder of a sweep is hydra.sweep.dir=FOLDER",
    "hydra.job.chdir": "jobs run where the command was typed; ${run:NAME} is a path in a job's folder. Leave it out",
    "hydra.job.env_set": "set variables for all jobs before the command: NAME=VALUE xp ... ; for hydra/launcher=ssh: "
    "+hydra.launcher.env.NAME=VALUE",
}
"""Keys that users of Hydra know, and what there is instead."""
_UNKNOWN = (
    "nothing reads it in a sweep. Read are hydra.sweep.dir, hydra.sweep.subdir, hydra.sweeper.*, hydra.launcher.* and "
    "hydra.searchpath. Leave it out"
)


def refuse_unread(overrides: Iterable[str], *, staged: bool, stock: bool) -> None:
    """Refuse an override of Hydra's section that would do nothing.

    Args:
        overrides: those of the section `hydra`, as typed.
        staged: it is an experiment of several stages.
        stock: a launcher of Hydra's own runs the jobs, which reads more of the section.

    Raises:
        UserError: naming the key and what to type.
    """
    for line in overrides:
        key = line.lstrip("+~").partition("=")[0]
        if key == SUBDIR and staged:
            raise UserError(
                f"{line}: the jobs of an experiment are named by stages.STAGE.name, which their needs rely on. Leave "
                "it out; the experiment's own folder is hydra.sweep.dir=FOLDER"
            )
        if stock or line == "hydra.job.chdir=false" or key.startswith("hydra/") or _is_read(key):
            continue
        known = next((told for name, told in _INSTEAD.items() if key == name or key.startswith(f"{name}.")), None)
        raise UserError(f"{line}: {known or _UNKNOWN}.")


def refuse_options(options: Iterable[str]) -> None:
    """Refuse options of the sweeper that it has not.

    Raises:
        UserError: naming the option and what to type.
    """
    for name in options:
        instead = {
            "max_batch_size": "All jobs are planned at once; how many run at a time is hydra.launcher.n_jobs=N "
            "(local), hydra.launcher.max_running=N (slurm), or the hosts' slots (ssh)",
        }.get(name, "Its options are dry_run, retry_failed and params")
        raise UserError(f"hydra.sweeper.{name}: the staged sweeper has no such option. {instead}.")


def typed(overrides: Iterable[str], key: str) -> bool:
    """Whether one of the overrides sets a key."""
    return any(line.lstrip("+~").partition("=")[0] == key for line in overrides)


def _is_read(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _READ)
