"""Where the entry-point group `xp.executors` finds `SshExecutor`; imported with every start of Hydra, hence empty."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "SshExecutor":
        from hydra_plugins.xp_ssh_launcher._executor import SshExecutor

        return SshExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
