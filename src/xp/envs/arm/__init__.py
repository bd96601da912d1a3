"""The embedded suite: an arm in MuJoCo, its tasks, scenes, initial states and scripted expert.

Names are imported when first used: the task table costs nothing, MuJoCo is loaded with the first env.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xp.envs.arm.controls import failing_expert
    from xp.envs.arm.env import ArmEnv
    from xp.envs.arm.expert import ScriptedExpert
    from xp.envs.arm.initial import InitialState, initial_state
    from xp.envs.arm.suite import ArmSuite
    from xp.envs.arm.tasks import TASKS, TaskInfo, task_info

_HOMES = {
    "ArmEnv": "env",
    "ArmSuite": "suite",
    "InitialState": "initial",
    "ScriptedExpert": "expert",
    "TASKS": "tasks",
    "TaskInfo": "tasks",
    "failing_expert": "controls",
    "initial_state": "initial",
    "task_info": "tasks",
}
__all__ = [
    "TASKS", "ArmEnv", "ArmSuite", "InitialState", "ScriptedExpert", "TaskInfo", "failing_expert", "initial_state",
    "task_info",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xp.envs.arm' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"xp.envs.arm.{_HOMES[name]}"), name)
