"""Where the entry-point group `xp.executors` finds `LocalExecutor`. Hydra imports it at every start, so it is light."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "LocalExecutor":
        from hydra_plugins.xp_local_launcher._executor import LocalExecutor

        return LocalExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
