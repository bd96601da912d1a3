"""A finished training in a folder, asked for again with more steps: the same run goes on from its last checkpoint."""

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf, open_dict

from xp.checkpoints.run_layout import checkpoint_steps
from xp.config.more_steps import extensions_in, refuse_nothing_to_extend
from xp.json_types import JSON, JSONObject
from xp.runs.jobs.frozen import Job, open_job
from xp.runs.jobs.identity import differing_keys
from xp.runs.records.folder import JOB, RECORD
from xp.runs.records.record import Record, State

OWN_KEYS = {"trainer.steps", "lr.extensions"}
"""What a training and its extension may differ in."""
ResultConfig = Callable[[JSONObject], JSONObject]


def with_extensions(config: DictConfig, job: Job, result_config: ResultConfig) -> DictConfig:
    """The configuration of a job with `lr.extensions` as the training in its folder has them, or gets them now.

    Unchanged where the folder holds no training that could be gone on with.

    Args:
        config: as composed.
        job: what was made of it.
        result_config: gives the part of a configuration that identity is about.

    Raises:
        UserError: see `xp.config.more_steps`.
    """
    if job.task != "train":
        return config
    if not (job.folder / JOB).exists():
        refuse_nothing_to_extend(job.config, job.folder)
        return config
    old = open_job(job.folder)
    if old.task != "train" or not _keys_that_differ(old, job, result_config) <= OWN_KEYS:
        return config  # another run: refused with all keys that differ
    is_done = Record(job.folder / RECORD).state is State.DONE
    steps = list(checkpoint_steps(job.folder))
    return _with(config, extensions_in(job.folder, old.config, job.config, is_done=is_done, checkpoints=steps))


def is_extension(job: Job, record: Record, result_config: ResultConfig) -> bool:
    """Whether a job is the done training of its folder with more steps.

    Also where the job was frozen and the record not yet marked: a process may be killed between the two.
    """
    if record.state is not State.DONE or job.task != "train":
        return False
    old = open_job(job.folder)
    return old.identity == job.identity or _keys_that_differ(old, job, result_config) == OWN_KEYS


def _keys_that_differ(old: Job, job: Job, result_config: ResultConfig) -> set[str]:
    found = differing_keys(result_config(old.config), result_config(job.config), old.known_runs, job.known_runs)
    return {difference.key for difference in found}


def _with(config: DictConfig, extensions: list[JSON]) -> DictConfig:
    if not extensions and not OmegaConf.select(config, "lr.extensions"):
        return config
    changed = config.copy()
    with open_dict(changed):
        OmegaConf.update(changed, "lr.extensions", extensions, merge=False)
    return changed
