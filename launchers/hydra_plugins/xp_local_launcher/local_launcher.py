"""`hydra/launcher=local` as Hydra sees it. Imported with every start of Hydra: keep it light."""

from hydra_plugins.xp_executor_base._launcher import ExecutorLauncher


class LocalLauncher(ExecutorLauncher):
    """Jobs on this machine, in a pool of warm workers."""

    name = "local"

    def __init__(
        self,
        n_jobs: int | None = None,
        threads: int | None = None,
        grace_s: float = 30.0,
        gpu_used_max: float = 0.1,
        **more: str,
    ):
        super().__init__(grace_s=grace_s, n_jobs=n_jobs, threads=threads, gpu_used_max=gpu_used_max, **more)
