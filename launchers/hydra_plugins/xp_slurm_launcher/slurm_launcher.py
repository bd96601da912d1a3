"""`hydra/launcher=slurm` as Hydra sees it. Imported with every start of Hydra: keep it light."""

from typing import Any

from hydra_plugins.xp_executor_base._launcher import ExecutorLauncher


class SlurmLauncher(ExecutorLauncher):
    """Gives the staged sweeper an executor that submits to SLURM; under another sweeper it launches and waits."""

    name = "slurm"

    def __init__(self, detach: bool = True, grace_s: float = 30.0, **settings: Any):
        super().__init__(grace_s=grace_s, **settings)
        self.detach = detach
