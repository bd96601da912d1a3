"""A scripted expert: waypoints for the fingertips, straight lines between them, closed-form inverse kinematics.

It moves at a constant speed between waypoints (the command is always one step ahead of the arm, so that the next action
can be read off a picture; a script that eases in and out, or waits, asks an imitator to know the time).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xp.envs.arm.arm import UnreachableError, forward, inverse, roll_for
from xp.envs.arm.env import ON_TARGET, ArmEnv
from xp.envs.arm.options import MAX_NOISE
from xp.envs.arm.scene import CUBE_SIDE
from xp.envs.arm.tasks import TaskInfo
from xp.errors import UserError

FREE_SPEED = 0.17
"""Speed of the fingertips in metres a second where nothing is near."""
CLOSE_SPEED = 0.12
PUSH_SPEED = 0.08
GRIP_SECONDS = 0.3
TURN_SPEED = 2.0
"""Largest speed of the wrist's roll, radians a second."""
HOVER = 0.080
PUSH_HOVER = 0.060
CLEARANCE = 0.035
"""How far above its resting height a cube is carried."""
PUSH_SECONDS = 5.0
AT_ONCE = 10.0
"""A speed that makes any short way one step long."""
PUSH_STOP = 0.006
"""The push ends this many metres before the target: the servos' lag takes the cube the rest of the way."""
SIDE_GAIN = 0.5
"""Share of the fingertips' sideways offset from the line through target and cube that one step of a push takes back."""
OPEN, CLOSED, PUSHING = 0.95, 0.0, 0.35


@dataclass(frozen=True)
class Waypoint:
    """Fingertips at `tip` [3], wrist rolled by `roll`, gripper at `grip`; got to at `speed` or in `seconds`."""

    tip: np.ndarray
    roll: float
    grip: float
    speed: float = FREE_SPEED
    seconds: float = 0.0


class ScriptedExpert:
    """Solves the env's task from the simulator's own state; never sees an image.

    It plans commands (see `xp.envs.arm.actions`) and says each as the env's kind of action.

    Args:
        env: the environment it acts in.
        noise: standard deviation in radians of Gaussian noise added to the five joint commands, at most 0.02.
        seed: of the noise; with equal seeds an episode repeats exactly.
        task: the task to solve where it is not the env's own (for negative controls).

    Raises:
        UserError: noise outside 0..0.02 (above that the expert itself begins to fail).
    """

    def __init__(self, env: ArmEnv, *, noise: float = 0.0, seed: int = 0, task: TaskInfo | None = None):
        if not 0.0 <= noise <= MAX_NOISE:
            raise UserError(
                f"The expert's noise was given as {noise} rad; it must lie between 0 and {MAX_NOISE}, "
                f"above which the expert itself fails: give e.g. collect.noise={MAX_NOISE / 2}."
            )
        self._env, self._noise, self._seed = env, noise, seed
        self._task = task or env.info
        self.reset(0)

    def reset(self, episode: int) -> None:
        """Plan anew for the episode that the env was just reset to; `episode` (its seed) also seeds the noise."""
        self._random = np.random.default_rng([self._seed, episode])
        self._commands: Iterator[np.ndarray] | None = None

    def act(self) -> np.ndarray:
        """The next action [A] float32."""
        if self._commands is None:
            self._last, self._commands = self._env.command, self._plan()
        self._last = next(self._commands, self._last)
        self._intended = self._said(self._last)
        noisy = self._last.copy()
        noisy[:5] += self._noise * self._random.standard_normal(5)
        return self._said(noisy)

    @property
    def intended(self) -> np.ndarray:
        """The last action [A] float32 without its noise: from where the noise has led, back to the plan."""
        return self._intended

    def _said(self, command: np.ndarray) -> np.ndarray:
        """The action that leads from the env's present command to another."""
        return self._env.action_space.action(self._env.command, command).astype(np.float32)

    def _plan(self) -> Iterator[np.ndarray]:
        """All commands [6] of the episode, one a control step; ends early where the arm cannot reach."""
        command = self._env.command
        self._here = Waypoint(forward(command)[0], float(command[4]), float(command[5]))
        try:
            yield from self._push() if self._task.skill == "push" else self._carry()
        except UnreachableError:
            return

    def _go(self, *waypoints: Waypoint) -> Iterator[np.ndarray]:
        """Commands that lead in straight lines through the waypoints."""
        for there in waypoints:
            here, steps = self._here, self._steps(self._here, there)
            for step in range(1, steps + 1):
                self._here = _between(here, there, step / steps)
                yield np.append(inverse(self._here.tip, roll=self._here.roll), self._here.grip)

    def _steps(self, here: Waypoint, there: Waypoint) -> int:
        distance = float(np.linalg.norm(there.tip - here.tip))
        turn = abs(there.roll - here.roll)
        seconds = max(distance / there.speed, turn / TURN_SPEED, there.seconds)
        return max(1, int(np.ceil(seconds * self._env.fps - 1e-9)))

    def _carry(self) -> Iterator[np.ndarray]:
        """Grasp the cube from above, carry it, put it down on the target or the other cube, let go, rise."""
        env, task = self._env, self._task
        x, y, _, yaw = env.cube_pose(task.cube)
        pick, place, height = np.array([x, y]), self._place(), CUBE_SIDE / 2
        roll, turned = _grasp_roll(yaw, pick), _grasp_roll(yaw, place)
        if task.skill == "stack":
            _, _, z, yaw = env.cube_pose(task.other)
            height, turned = z + CUBE_SIDE, _grasp_roll(yaw, place)
        low, above, drop = CUBE_SIDE / 2, max(HOVER, height + CLEARANCE), height + 0.002
        yield from self._go(
            Waypoint(_at(pick, HOVER), roll, OPEN),
            Waypoint(_at(pick, low), roll, OPEN, CLOSE_SPEED),
            Waypoint(_at(pick, low), roll, CLOSED, seconds=GRIP_SECONDS),
            Waypoint(_at(pick, above), roll, CLOSED, CLOSE_SPEED),
            Waypoint(_at(place, above), turned, CLOSED),
            Waypoint(_at(place, drop), turned, CLOSED, CLOSE_SPEED),
            Waypoint(_at(place, drop), turned, OPEN, seconds=GRIP_SECONDS),
            Waypoint(_at(place, above + 0.01), turned, OPEN, CLOSE_SPEED),
        )

    def _push(self) -> Iterator[np.ndarray]:
        """Come down behind the cube, push it to the target with both fingertips, back off, rise."""
        low, stride = CUBE_SIDE / 2, PUSH_SPEED / self._env.fps
        cube, along = self._heading()
        behind = cube - 0.040 * along
        roll = self._edge_roll(along, behind)
        yield from self._go(
            Waypoint(_at(behind, PUSH_HOVER), roll, PUSHING), Waypoint(_at(behind, low), roll, PUSHING, CLOSE_SPEED)
        )
        for _ in range(int(PUSH_SECONDS * self._env.fps)):
            cube, towards = self._heading()
            left = float((self._place() - cube) @ along)
            if left < PUSH_STOP:
                break
            along = towards if left > 2 * ON_TARGET else along
            offset = self._here.tip[:2] - cube
            aside = offset - (offset @ along) * along
            tip = self._here.tip[:2] + min(stride, left) * along - SIDE_GAIN * aside
            yield from self._go(Waypoint(_at(tip, low), self._edge_roll(along, tip), PUSHING, speed=AT_ONCE))
        back, roll = self._here.tip[:2] - 0.020 * along, self._here.roll
        yield from self._go(
            Waypoint(_at(back, low), roll, PUSHING), Waypoint(_at(back, PUSH_HOVER), roll, PUSHING, CLOSE_SPEED)
        )

    def _place(self) -> np.ndarray:
        """Where the cube is to go [2]: the target, or the other cube."""
        stack = self._task.skill == "stack"
        return self._env.cube_pose(self._task.other)[:2] if stack else self._env.target

    def _heading(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the cube to move is [2], and the unit vector [2] from it to its place."""
        cube = self._env.cube_pose(self._task.cube)[:2]
        way = self._place() - cube
        return cube, way / max(float(np.hypot(*way)), 1e-9)

    def _edge_roll(self, along: np.ndarray, point: np.ndarray) -> float:
        """Roll that puts the line through both fingertips across `along`; of two, the one nearer to the present."""
        yaw = float(np.arctan2(along[1], along[0])) + np.pi / 2
        roll = roll_for(yaw, float(np.arctan2(point[1], point[0])), turns=np.pi)
        return roll + np.pi * float(np.round((self._here.roll - roll) / np.pi))


def _at(point: np.ndarray, height: float) -> np.ndarray:
    return np.array([point[0], point[1], height])


def _grasp_roll(yaw: float, point: np.ndarray) -> float:
    """Roll that puts the fingers on two opposite faces of a cube with `yaw` at `point`."""
    return roll_for(yaw, float(np.arctan2(point[1], point[0])), turns=np.pi / 2)


def _between(here: Waypoint, there: Waypoint, share: float) -> Waypoint:
    """The point a `share` of the way from one waypoint to the next."""
    tip = here.tip + share * (there.tip - here.tip)
    roll = here.roll + share * (there.roll - here.roll)
    return Waypoint(tip, roll, here.grip + share * (there.grip - here.grip))
