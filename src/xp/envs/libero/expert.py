"""A scripted expert for tasks that are done by carrying things: waypoints for the gripper, followed in closed loop.

It reads the simulator's poses, never a picture. At each step it moves towards its waypoint by an action that is
proportional to what is left (saturated far away), so that the next action can be read off a picture.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from xp.envs.libero.env import CLOSED, OPEN, LiberoEnv
from xp.envs.libero.facts import MAX_NOISE
from xp.errors import UserError

GAIN = 2.0
"""Action per share of the controller's reach that is left: above 1, because its target runs ahead of the arm."""
REACH = 0.05
"""Metres that an action of 1 moves the controller's target."""
TURN_REACH = 0.5
"""Radians that an action of 1 turns it."""
HOVER = 0.12
"""Metres above a thing from where the gripper comes down."""
CARRY = 0.25
"""Metres above a place at which things are carried there: over a basket's rim with what hangs below the fingers."""
NEAR = 0.012
"""A waypoint is reached within this distance, metres."""
GRIP_STEPS = 12
"""Control steps in which the fingers close on a thing, or let it go."""
ABOVE = 0.006
"""The same above a thing, before the gripper comes down on it."""
ALIGNED = 0.1
"""A waypoint's rotation is reached within this angle, radians."""
LEVER = 0.1
"""Metres that a radian counts as, where it is asked whether anything moves."""
PROGRESS, STALLED_STEPS = 0.001, 12
"""Where so many control steps bring the gripper no nearer by this many metres, the waypoint is given up."""
LOW = 0.045
"""Metres below the middle of its place at which a thing's lower end hangs when it is let go; no nearer above it does
the gripper come."""
PALM = 0.03
"""Metres that the fingers reach below the hand: no deeper does the top of a thing fit between them."""
BLOCKED = 0.02
"""Metres above its waypoint at which the gripper, coming down, has met something."""
HELD = 0.08
"""What is held is no further from the fingertips than this, metres."""
GRASPS = ((0.0, 0.0), (0.0, 0.02), (0.0, -0.02), (np.pi / 2, 0.0))
"""Ways to grasp, tried in this order: the hand's turn about the vertical in radians, and how many metres beside the
middle of the thing, across the line through the fingers, away from the nearest other thing."""
ROUNDS = 6
"""How often a task's goals are gone through: more than an episode has time for."""


@dataclass(frozen=True)
class Carry:
    """One thing to be carried: its name, the name of the object or region that it is to lie in or on, and the goal."""

    thing: str
    place: str
    goal: tuple[str, ...]


def carries(goals: Sequence[Sequence[str]], movable: Sequence[str]) -> list[Carry]:
    """The goals as things to carry, in their order; one of another kind (open, close, turn on) is left out."""
    wanted = [goal for goal in goals if len(goal) == 3 and goal[0].lower() in ("in", "on") and goal[1] in movable]
    return [Carry(thing=goal[1], place=goal[2], goal=tuple(goal)) for goal in wanted]


class CarryingExpert:
    """Carries what the task's goals name to where they name, one after the other.

    Args:
        env: the env that it acts in.
        noise: standard deviation of Gaussian noise on the six motion numbers of its actions.
        seed: of the noise; with equal seeds an episode repeats exactly.
        plan: what to carry where it is not the task's own goals (for negative controls).
        grip: what the gripper does to hold a thing (for negative controls).

    Raises:
        UserError: noise out of bounds, or a task with a goal that is not to carry something.
    """

    def __init__(
        self,
        env: LiberoEnv,
        *,
        noise: float = 0.0,
        seed: int = 0,
        plan: Sequence[Carry] | None = None,
        grip: float = CLOSED,
    ):
        if not 0.0 <= noise <= MAX_NOISE:
            raise UserError(
                f"The expert's noise was given as {noise}; it must lie between 0 and {MAX_NOISE}, above which the "
                f"expert itself fails: give e.g. collect.noise={MAX_NOISE / 3:.1g}."
            )
        goals = env.simulation.goals
        self._plan = list(carries(goals, env.simulation.movable) if plan is None else plan)
        if plan is None and len(self._plan) < len(goals):
            raise UserError(
                f"The expert carries things and does not know how to reach the goals of {env.task}: {goals}. Give "
                "tasks that put something somewhere (those of env.suite=libero_object), or a policy."
            )
        self._env, self._noise, self._seed, self._grip = env, noise, seed, grip
        self.reset(0)

    def reset(self, episode: int) -> None:
        """Begin the episode that the env was just reset to; `episode` also seeds the noise."""
        self._random = np.random.default_rng([self._seed, episode])
        self._actions: Iterator[np.ndarray] | None = None

    def act(self) -> Float32[np.ndarray, "7"]:
        """The next action [7]."""
        if self._actions is None:
            self._upright = self._wanted = self._rotation()
            self._actions = self._script()
        action = next(self._actions, None)
        if action is None:
            action = np.append(np.zeros(6), OPEN)
        action[:6] += self._noise * self._random.standard_normal(6)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _script(self) -> Iterator[np.ndarray]:
        """All actions of the episode: what does not lie where it should is carried, again where it went wrong."""
        for _ in range(ROUNDS):
            for carry in self._plan:
                if not self._env.simulation.holds(carry.goal):
                    yield from self._fetch(carry)
                    yield from self._put(carry)

    def _fetch(self, carry: Carry) -> Iterator[np.ndarray]:
        """Grasp a thing from above and lift it; beside its middle where a tall neighbour is in the way."""
        simulation = self._env.simulation
        for turned, aside in GRASPS:
            self._wanted = _about_z(turned) @ self._upright
            place = simulation.position(carry.thing)
            place[2] = max(place[2], simulation.extent(carry.thing)[1] - PALM)
            place += _about_z(turned) @ [aside * self._away(carry.thing, turned), 0, 0]
            yield from self._go(lambda place=place: place + [0, 0, HOVER], OPEN, near=ABOVE)
            yield from self._go(lambda place=place: place, OPEN)
            if self._tip()[2] - place[2] > BLOCKED:
                continue
            yield from self._hold(place, self._grip)
            yield from self._go(lambda place=place: place + [0, 0, CARRY], self._grip)
            if self._holds(carry.thing):
                return

    def _put(self, carry: Carry) -> Iterator[np.ndarray]:
        """Bring what is held over its place, lower it, let go, rise."""
        simulation = self._env.simulation

        def above(height: float) -> np.ndarray:
            """Where the gripper has to be so that the thing, as it hangs, is over its place."""
            hangs = simulation.position(carry.thing) - self._tip() if self._holds(carry.thing) else np.zeros(3)
            return simulation.position(carry.place) + [-hangs[0], -hangs[1], height]

        yield from self._go(lambda: above(CARRY), self._grip)
        yield from self._go(lambda: above(self._release_height(carry.thing)), self._grip)
        there = self._tip()
        yield from self._hold(there, OPEN)
        yield from self._go(lambda: there + [0, 0, HOVER], OPEN)

    def _release_height(self, thing: str) -> float:
        """Metres above its place from where a thing is let go: standing, or nearly, where it hangs far down.

        A carton that is let go higher up stays on a finger that it is hooked to; its place pushes it off.
        """
        hangs = self._tip()[2] - self._env.simulation.extent(thing)[0] if self._holds(thing) else 0.0
        return min(HOVER, max(LOW, hangs - LOW))

    def _away(self, thing: str, turned: float) -> float:
        """The sign of the way across the fingers that leads away from the nearest other thing."""
        simulation = self._env.simulation
        here = simulation.position(thing)
        ways = [simulation.position(other) - here for other in simulation.movable if other != thing]
        if not ways:
            return 1.0
        nearest = min(ways, key=lambda way: float(np.hypot(*way[:2])))
        return -1.0 if (_about_z(-turned) @ nearest)[0] > 0 else 1.0

    def _holds(self, thing: str) -> bool:
        """Whether a thing is as near to the fingertips as what they hold."""
        return bool(np.linalg.norm(self._env.simulation.position(thing) - self._tip()) < HELD)

    def _tip(self) -> Float[np.ndarray, "3"]:
        return np.array(self._env.simulation.observed["robot0_eef_pos"])

    def _rotation(self) -> Float[np.ndarray, "3 3"]:
        return quaternion_matrix(self._env.simulation.observed["robot0_eef_quat"])

    def _go(self, where: Callable[[], np.ndarray], gripper: float, near: float = NEAR) -> Iterator[np.ndarray]:
        """Actions that lead to `where()`, until it is reached or nothing moves any more."""
        best, since = np.inf, 0
        while since < STALLED_STEPS:
            left = where() - self._tip()
            turn = rotation_vector(self._wanted @ self._rotation().T)
            if np.linalg.norm(left) < near and np.linalg.norm(turn) < ALIGNED:
                return
            rest = float(np.linalg.norm(left) + LEVER * np.linalg.norm(turn))
            best, since = (rest, 0) if rest < best - PROGRESS else (best, since + 1)
            yield self._towards(left, gripper)

    def _hold(self, place: np.ndarray, gripper: float) -> Iterator[np.ndarray]:
        """Actions that stay at a place while the gripper opens or closes."""
        for _ in range(GRIP_STEPS):
            yield self._towards(place - self._tip(), gripper)

    def _towards(self, left: np.ndarray, gripper: float) -> np.ndarray:
        """The action that takes the gripper `left` metres on and turns it as it is wanted."""
        turn = rotation_vector(self._wanted @ self._rotation().T)
        motion = np.concatenate([GAIN * left / REACH, GAIN * turn / TURN_REACH])
        return np.append(np.clip(motion, -1.0, 1.0), gripper)


def _about_z(angle: float) -> Float[np.ndarray, "3 3"]:
    """The rotation by an angle about the vertical."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def quaternion_matrix(quaternion: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """The rotation matrix of a unit quaternion [x, y, z, w]."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_vector(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """The axis times the angle of a rotation well below half a turn."""
    twice_sine = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    angle = np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1.0, 1.0))
    return twice_sine / 2 if angle < 1e-6 else twice_sine * angle / (2 * np.sin(angle))
