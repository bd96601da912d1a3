"""Where the entry-point group `xp.executors` finds `SlurmExecutor`. Hydra imports it at every start, so it is light."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "SlurmExecutor":
        from hydra_plugins.xp_slurm_launcher._executor import SlurmExecutor

        return SlurmExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
