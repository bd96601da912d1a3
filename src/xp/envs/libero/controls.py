"""LIBERO's negative controls: experts that must fail, and a policy that does nothing."""

import numpy as np
from jaxtyping import Float32

from xp.envs.libero.env import OPEN, LiberoEnv
from xp.envs.libero.expert import Carry, CarryingExpert, carries
from xp.envs.suite import Window
from xp.errors import UserError


def failing_expert(env: LiberoEnv, control: str) -> CarryingExpert:
    """The expert with a gripper that never closes (`open_gripper`), or one that carries another thing (`wrong_object`).

    Raises:
        UserError: the task has no other thing to carry.
    """
    if control == "open_gripper":
        return CarryingExpert(env, grip=OPEN)
    simulation = env.simulation
    plan = carries(simulation.goals, simulation.movable)
    named = {carry.thing for carry in plan} | {carry.place for carry in plan}
    others = [name for name in simulation.movable if name not in named and not _holds(name, plan)]
    if not others or not plan:
        raise UserError(f"{env.task} has no other thing to carry, so there is no expert that takes the wrong one.")
    return CarryingExpert(env, plan=[Carry(others[0], plan[0].place, plan[0].goal)])


def _holds(name: str, plan: list[Carry]) -> bool:
    """Whether a region that something is put in belongs to the object `name`."""
    return any(carry.place.startswith(f"{name}_") for carry in plan)


class StandStill:
    """A policy that asks for no motion and an open gripper: the no-op action of the published evaluations."""

    def __init__(self, horizon: int = 1):
        self._chunk = np.tile(np.append(np.zeros(6, np.float32), np.float32(OPEN)), (horizon, 1))

    def __call__(self, batch: Window) -> Float32[np.ndarray, "batch horizon 7"]:
        """Actions [B, H, 7] for a batch of B windows."""
        return np.repeat(self._chunk[None], len(batch["task"]), axis=0)
