"""`hydra/launcher=ssh` as Hydra sees it. Imported with every start of Hydra: keep it light."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra_plugins.xp_local_launcher.local_launcher import LocalLauncher

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

    from xp.runs.executor import Executor


class SshLauncher(LocalLauncher):
    """Gives the staged sweeper its executor; under another sweeper it launches jobs itself and waits for them."""

    def __init__(self, hosts: Any = None, detach: bool = True, grace_s: float = 30.0, **settings: Any):
        from omegaconf import OmegaConf

        given = {"hosts": hosts, "grace_s": grace_s, **settings}
        self.settings: dict[str, Any] = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in given.items()
        }
        self.detach, self.grace_s = bool(detach), grace_s

    def executor(self) -> "Executor":
        """A new executor with this launcher's settings, checked."""
        from xp.runs.executor import executor_named

        executor: Any = executor_named("ssh", **self.settings)
        assert executor.settings
        return executor

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> "Sequence[JobReturn]":
        """Hydra's own contract: compose, run and wait."""
        return super().launch(job_overrides, initial_job_idx)
