"""What launchers over an executor share; a new one subclasses `ExecutorLauncher`.

Hydra executes every module here that has a public name once more when it looks for plugins, which would make a second
class of that name: the class is in a private module, and is looked up when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra_plugins.xp_executor_base._launcher import ExecutorLauncher

__all__ = ["ExecutorLauncher"]


def __getattr__(name: str) -> Any:
    if name == "ExecutorLauncher":
        from hydra_plugins.xp_executor_base._launcher import ExecutorLauncher

        return ExecutorLauncher
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
