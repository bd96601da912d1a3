"""`hydra/sweeper=staged` as Hydra sees it. Imported with every start of Hydra: keep it light."""

from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class StagedSweeper(Sweeper):
    """Composes and checks every job of every stage, prints the plan, runs what is missing."""

    def __init__(self, dry_run: bool = False, retry_failed: bool = False, params: Any = None, **others: Any):
        self._options = {"dry_run": dry_run, "retry_failed": retry_failed, "params": params, "others": others}

    def setup(self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig") -> None:
        """Take Hydra's context."""
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> int:
        """Run an experiment or a plain sweep; gives the exit code (0 all done, 1 some failed, 130 interrupted)."""
        from hydra_plugins.xp_staged_sweeper._sweep import Options, Sweep

        return Sweep(Options(**self._options), self._context, self._task_function, self._config).run(arguments)
