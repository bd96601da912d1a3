"""`hydra/launcher=ssh` as Hydra sees it. Imported with every start of Hydra: keep it light."""

from typing import TYPE_CHECKING, Any

from hydra_plugins.xp_executor_base._launcher import ExecutorLauncher

if TYPE_CHECKING:
    from xp.runs.executors.protocol import Executor


class SshLauncher(ExecutorLauncher):
    """Gives the staged sweeper its executor; under another sweeper it launches jobs itself and waits for them."""

    name = "ssh"

    def __init__(self, hosts: Any = None, detach: bool = True, grace_s: float = 30.0, **settings: Any):
        super().__init__(grace_s=grace_s, hosts=hosts, **settings)
        self.detach = bool(detach)

    def executor(self) -> "Executor":
        """A new executor with this launcher's settings, checked."""
        from hydra_plugins.xp_ssh_launcher._settings import settings_of

        settings_of(**self.settings)
        return super().executor()
