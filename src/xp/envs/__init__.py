"""The embedded manipulation suite: an arm in MuJoCo, language-labelled tasks, a scripted expert, closed-loop rollouts.

Names are imported when first used: the task table costs nothing, MuJoCo is loaded with the first env.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xp.envs.arm.env import ArmEnv, StepResult
    from xp.envs.arm.expert import ScriptedExpert
    from xp.envs.arm.initial import InitialState, initial_state
    from xp.envs.arm.tasks import TASKS, TaskInfo, task_info
    from xp.envs.collect import Episode, collect_episode
    from xp.envs.controls import Noop, failing_expert
    from xp.envs.rollout import EpisodeResult, rollout
    from xp.envs.video import side_by_side, write_video

_HOMES = {
    "ArmEnv": "arm.env",
    "StepResult": "arm.env",
    "Episode": "collect",
    "collect_episode": "collect",
    "Noop": "controls",
    "failing_expert": "controls",
    "ScriptedExpert": "arm.expert",
    "InitialState": "arm.initial",
    "initial_state": "arm.initial",
    "EpisodeResult": "rollout",
    "rollout": "rollout",
    "TASKS": "arm.tasks",
    "TaskInfo": "arm.tasks",
    "task_info": "arm.tasks",
    "side_by_side": "video",
    "write_video": "video",
}
__all__ = [
    "TASKS", "ArmEnv", "Episode", "EpisodeResult", "InitialState", "Noop", "ScriptedExpert", "StepResult",
    "TaskInfo", "collect_episode", "failing_expert", "initial_state", "rollout", "side_by_side", "task_info",
    "write_video",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xp.envs' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"xp.envs.{_HOMES[name]}"), name)
