"""Simulated suites: the protocol (`suite.py`), closed-loop rollouts, recording, rendering; one package per suite.

Names are imported when first used: a suite's facts cost nothing, its simulator is loaded with the first env. (The
function `rollout` is not among them: the module of that name would take its place.)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xp.envs.noop import Noop
    from xp.envs.recording import Episode, collect_episode
    from xp.envs.rollout import EpisodeResult
    from xp.envs.suite import Actor, Env, Observation, Predict, StepResult, Suite, suite_named, suite_of
    from xp.envs.video import side_by_side, write_video

_HOMES = {
    "Episode": "recording",
    "collect_episode": "recording",
    "Noop": "noop",
    "EpisodeResult": "rollout",
    "Actor": "suite",
    "Env": "suite",
    "Observation": "suite",
    "Predict": "suite",
    "StepResult": "suite",
    "Suite": "suite",
    "suite_named": "suite",
    "suite_of": "suite",
    "side_by_side": "video",
    "write_video": "video",
}
__all__ = [
    "Actor", "Env", "Episode", "EpisodeResult", "Noop", "Observation", "Predict", "StepResult", "Suite",
    "collect_episode", "side_by_side", "suite_named", "suite_of", "write_video",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xp.envs' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"xp.envs.{_HOMES[name]}"), name)
