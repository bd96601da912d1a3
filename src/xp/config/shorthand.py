"""Overrides in the spelling of the scripts that xp replaces, and where Hydra's own spelling would do nothing."""

import re

_EPISODES = re.compile(r"(?:eval\.)?indices_episode=(-?\d+(?:,-?\d+)*)")
_TOLD = re.compile(r"data\.read\.\w+=.*", re.DOTALL)
_REPLACED = re.compile(r"env\.(cameras|kwargs)=\s*\{.*", re.DOTALL)


def expand_shorthand(overrides: list[str]) -> list[str]:
    """Overrides as Hydra needs them.

    `indices_episode=0,1,2` becomes `eval.indices_episode=[0,1,2]`: one replay of these episodes, never a sweep.
    `env.cameras={...}` replaces the cameras: Hydra would merge it into those of the configuration, so that `{}` did
    nothing and a single camera came on top of the two there are. `env.cameras.top=[96,96]` still changes one.
    `env.kwargs={...}` likewise: Hydra would refuse keys that do not stand there, and none do. For the same reason
    `data.read.fps=5` becomes `++data.read.fps=5`: which keys there are, the data format knows.
    """
    return [word for override in overrides for word in _expanded(override)]


def _expanded(override: str) -> list[str]:
    if match := _EPISODES.fullmatch(override):
        return [f"eval.indices_episode=[{match[1]}]"]
    if match := _REPLACED.fullmatch(override):
        return [f"~env.{match[1]}", f"+{override}"]
    if _TOLD.fullmatch(override):
        return [f"++{override}"]
    return [override]
