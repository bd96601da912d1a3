"""Where the entry-point group `xp.executors` finds `SshExecutor`. Hydra imports it at every start, so it is light."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "SshExecutor":
        from hydra_plugins.xp_ssh_launcher._executor import SshExecutor

        return SshExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
