"""The model of a quadruped on its floor, from its own numbers or an MJCF, and how a state lies in it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64, Int

from xp.envs.mujoco_types import MjModel
from xp.envs.quadruped.described import described_model, state_order, varied
from xp.envs.quadruped.model import build_model
from xp.envs.quadruped.settings import Settings


@dataclass(frozen=True)
class Scene:
    """A compiled model; signs of its joints are canonical, their order need not be."""

    model: MjModel
    varied: Callable[..., MjModel]
    """The same with factors `friction` (of the feet), `trunk_mass` and `gains` (of the servos)."""
    order: Int[np.ndarray, "38"] | None = None
    """Where in the model's state (time, qpos, qvel) each number of the canonical state stands; None: all the same."""

    def from_model(self, states: Float64[np.ndarray, "N S"]) -> Float64[np.ndarray, "N S"]:
        """States of the model with the joints in canonical order; a copy."""
        return states.copy() if self.order is None else states[:, self.order]

    def to_model(self, states: Float64[np.ndarray, "N S"]) -> Float64[np.ndarray, "N S"]:
        """Canonical states with the joints in the model's order."""
        if self.order is None:
            return states
        there = np.empty_like(states)
        there[:, self.order] = states
        return there


def scene_of(settings: Settings, *, pictures: bool = False) -> Scene:
    """The scene of `settings`; one without `pictures` may lack what is only seen.

    Raises:
        UserError: as `described_model`.
    """
    robot, description = settings.robot, settings.description
    if description is None:
        return Scene(build_model(robot), partial(build_model, robot))
    model = described_model(description, robot, pictures=pictures)
    return Scene(model, partial(varied, model, description), state_order(model, description))
