"""`hydra/launcher=NAME` over an executor; a subclass says its name.

Imported with every start of Hydra: keep it light.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.plugins.launcher import Launcher

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from xp.runs.executors.protocol import Executor, JobState


class ExecutorLauncher(Launcher):
    """Gives the staged sweeper its executor; under another sweeper it launches jobs itself and waits for them."""

    name: ClassVar[str]
    """The executor's name in the entry-point group `xp.executors`."""
    detach = False
    """Whether the staged sweeper submits and leaves, where the executor's jobs outlive it."""

    def __init__(self, *, grace_s: float = 30.0, **settings: Any):
        self.settings: dict[str, Any] = {"grace_s": grace_s, **_plain(settings)}
        """What the executor is made with, from `hydra.launcher`."""
        self.grace_s = grace_s
        """Seconds that jobs have for a last checkpoint when they are asked to leave."""

    def setup(self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig") -> None:
        """Take Hydra's context."""
        self._loader, self._config = hydra_context.config_loader, config

    def executor(self) -> "Executor":
        """A new executor with this launcher's settings."""
        from xp.runs.executors.protocol import executor_named

        return executor_named(self.name, **self.settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> "Sequence[JobReturn]":
        """Hydra's own contract: compose, run and wait. A job's folder is `hydra.sweep.dir/hydra.sweep.subdir`."""
        from xp.runs.executors.protocol import Submission
        from xp.runs.executors.submitted import submit_and_note

        folders = [self._freeze(list(each), initial_job_idx + n) for n, each in enumerate(job_overrides)]
        executor = self.executor()
        try:
            submit_and_note(executor, [Submission(folder=folder) for folder, todo in folders if todo])
            states: dict[str, JobState] = {}
            while not states or not all(state.ended for state in states.values()):
                states = executor.poll(1.0)
                if not states:
                    break
        finally:
            executor.close()
        return [_answer(folder, list(each)) for (folder, _), each in zip(folders, job_overrides)]

    def _freeze(self, overrides: list[str], number: int) -> tuple[Path, bool]:
        from omegaconf import open_dict

        from xp.config.compose import without_hydra
        from xp.runs.execution.run_once import start_run

        config = self._loader.load_sweep_config(self._config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        folder = Path(config.hydra.sweep.dir).absolute() / str(config.hydra.sweep.subdir)
        place = start_run(without_hydra(config), folder, overrides, generated=False)
        return folder, place is not None


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as plain dicts and lists: they are stored, and executors know nothing of OmegaConf."""
    from omegaconf import Container, OmegaConf

    return {
        key: OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value
        for key, value in settings.items()
    }


def _answer(folder: Path, overrides: list[str]) -> "JobReturn":
    from hydra.core.utils import JobReturn, JobStatus

    from xp.runs import RunFolder, State

    record = RunFolder(folder).record()
    answer: Any = JobReturn(overrides=overrides, working_dir=str(folder), task_name="xp")
    if record.state is State.DONE:
        answer.status, answer.return_value = JobStatus.COMPLETED, None
    else:
        error = record.error_message or record.standing
        answer.status, answer.return_value = JobStatus.FAILED, RuntimeError(f"{folder}: {error}")
    return answer
