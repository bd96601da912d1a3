"""Overrides in the spelling of the scripts that xp replaces."""

import re

_EPISODES = re.compile(r"(?:eval\.)?indices_episode=(-?\d+(?:,-?\d+)*)")


def spelled_out(overrides: list[str]) -> list[str]:
    """`indices_episode=0,1,2` as `eval.indices_episode=[0,1,2]`: one replay of these episodes, never a sweep."""
    return [
        f"eval.indices_episode=[{match[1]}]" if (match := _EPISODES.fullmatch(override)) else override
        for override in overrides
    ]
