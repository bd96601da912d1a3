"""submitit's `AutoExecutor(folder, cluster="ssh")`: functions on machines reached by ssh alone.

    executor = submitit.AutoExecutor("jobs", cluster="ssh", ssh_hosts=["ssh root@1.2.3.4 -p 41234"])
    jobs = executor.map_array(function, values)

`ssh_NAME` is a setting of `hydra/launcher=ssh`. submitit and the function's own module must be importable on the nodes.
"""

import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core import core, job_environment, utils

from hydra_plugins.xp_ssh_launcher._settings import Settings, settings_of
from hydra_plugins.xp_ssh_launcher._submitit_scheduler import SubmititScheduler, order_of

_VARIABLES = {name: f"XP_SUBMITIT_{name.upper()}" for name in
              ("job_id", "num_tasks", "num_nodes", "node", "global_rank", "local_rank")}  # fmt: skip
_schedulers: dict[str, SubmititScheduler] = {}
"""{job id: the scheduler it is on}."""


class SSHWatcher(core.InfoWatcher):
    """Asks the scheduler in this process."""

    folders: dict[str, Path] = {}

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """PENDING, RUNNING, COMPLETED, FAILED or CANCELLED; UNKNOWN for a job of another process."""
        scheduler = _schedulers.get(job_id)
        return scheduler.state(self.folders[job_id]) if scheduler is not None else "UNKNOWN"

    def get_info(self, job_id: str, mode: str = "standard") -> dict[str, str]:
        """The state as a dict."""
        return {"State": self.get_state(job_id, mode)}


class SSHJob(core.Job[Any]):
    """A function at work on a node."""

    watcher = SSHWatcher()
    _results_timeout_s = 1  # files are here before the state changes

    def cancel(self, check: bool = True) -> None:
        """Ask it to leave."""
        scheduler = _schedulers.get(self.job_id)
        if scheduler is not None:
            scheduler.cancel(self.watcher.folders[self.job_id])  # type: ignore[attr-defined]


class SSHJobEnvironment(job_environment.JobEnvironment):
    """What a function sees of its job."""

    _env = _VARIABLES

    def _requeue(self, countdown: int) -> None:
        sys.exit(1)  # the node's process has ended without a result: it is tried again


class SSHExecutor(core.Executor):
    """See the module's text."""

    job_class = SSHJob

    def __init__(self, folder: str | Path, hosts: Any = None, max_num_timeout: int = 3, **settings: Any):
        path = Path(folder).expanduser().absolute()
        super().__init__(path if "%j" in str(path) else path / "%j")
        self.max_num_timeout = max_num_timeout
        self._given: dict[str, Any] = {"hosts": hosts, **settings}
        self._board: SubmititScheduler | None = None

    @classmethod
    def _valid_parameters(cls) -> set[str]:
        return {"hosts", "python", "workdir", "setup", "env", "ssh_config", "lost_after_min", "retries", "grace_s"}

    @classmethod
    def affinity(cls) -> int:
        """Never chosen by itself."""
        return 0

    def _internal_update_parameters(self, **kwargs: Any) -> None:
        valid = self._valid_parameters()
        self._given.update({key: value for key, value in kwargs.items() if key in valid})
        super()._internal_update_parameters(**kwargs)

    @property
    def settings(self) -> Settings:
        """The checked settings."""
        return settings_of(**{"python": sys.executable, **self._given})

    def _internal_process_submissions(
        self, delayed_submissions: Sequence[utils.DelayedSubmission]
    ) -> list[core.Job[Any]]:
        if self._board is None:
            self._board = SubmititScheduler(self.settings)
        return [self._submit_one(self._board, delayed) for delayed in delayed_submissions]

    def _submit_one(self, scheduler: SubmititScheduler, delayed: utils.DelayedSubmission) -> SSHJob:
        job_id = uuid.uuid4().hex[:12]
        delayed.set_timeout(self.parameters.get("timeout_min", 5), self.max_num_timeout)
        job = SSHJob(folder=self.folder, job_id=job_id, tasks=[0])
        folder = job.paths.folder
        folder.mkdir(parents=True)
        delayed.dump(job.paths.submitted_pickle)
        values = {"job_id": job_id, "num_tasks": "1", "num_nodes": "1"}
        env = {_VARIABLES[name]: values.get(name, "0") for name in _VARIABLES}
        env |= {"SUBMITIT_EXECUTOR": "ssh", "XP_OUT": str(job.paths.stdout), "XP_ERR": str(job.paths.stderr)}
        command = [scheduler.settings.python, "-u", "-m", "submitit.core._submit", str(folder)]
        _schedulers[job_id], SSHJob.watcher.folders[job_id] = scheduler, folder  # type: ignore[attr-defined]
        job.watcher.register_job(job_id)
        scheduler.submit(folder, order_of(folder, scheduler.settings, command, env))
        return job
