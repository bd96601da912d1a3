"""One task of LIBERO as an `Env`: the published protocol around the package's simulation."""

import gc
import weakref
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64

from xp.envs.lazy import LazyObservation
from xp.envs.libero.facts import ACTION_NAMES, FIRST_OFFICIAL, FPS, MEGABYTES, OFFICIAL_STATES
from xp.envs.libero.resources import official_states, task_files
from xp.envs.libero.simulation import Simulation
from xp.envs.room import free_megabytes
from xp.envs.suite import Observation, StepResult
from xp.errors import UserError, join_names

OPEN, CLOSED = -1.0, 1.0
"""The last number of an action: the gripper's fingers move apart or together."""


class LiberoEnv:
    """One task.

    An observation has LeRobot's keys: `observation.images.<camera>` [h, w, 3] uint8, drawn when it is looked at,
    `observation.state` [8] float32 and `task`. An action [7] float32 is one of robosuite's OSC_POSE controller.

    Initial states: seeds from 1,000,000 on are the official ones, 50 a task; any smaller seed draws one by the rules of
    the task's file, as the official ones were drawn.

    Args:
        suite: name of the suite.
        task: name of the task.
        language: its instruction.
        cameras: camera name to (height, width); an empty mapping gives states only.
        max_steps: control steps per episode, not counting `wait_steps`.
        wait_steps: steps with no motion and an open gripper before the first observation.
        fast: whether pictures are drawn without shadows, reflections and multi-sampling.
    """

    action_low = np.full(len(ACTION_NAMES), -1.0)
    action_high = np.full(len(ACTION_NAMES), 1.0)

    def __init__(
        self,
        suite: str,
        task: str,
        *,
        language: str,
        cameras: Mapping[str, tuple[int, int]],
        max_steps: int,
        wait_steps: int,
        fast: bool,
    ):
        self.suite, self.task, self.language = suite, task, language
        self.cameras, self.max_steps, self.fps = dict(cameras), max_steps, FPS
        self._wait_steps, self._fast = wait_steps, fast
        self._official = official_states(suite, task)
        self._simulation: Simulation | None = None
        self.steps, self._seed, self._acting = 0, 0, False
        self._observation: Observation | None = None

    @property
    def simulation(self) -> Simulation:
        """The simulation, made when it is needed: a gigabyte with cameras, so that not every env keeps one.

        Raises:
            UserError: the package, MuJoCo or GL fails; or the official states are not of this version of the package.
        """
        if self._simulation is None:
            _let_go_of_idle(self)
            made = Simulation(task_files(self.suite)[self.task], self.cameras, fast=self._fast)
            if self._official.shape[1] != made.state_size:
                raise UserError(
                    f"The initial states of {self.task} have {self._official.shape[1]} numbers, the simulation has "
                    f"{made.state_size}: they are of another version of the package. Install one version alone."
                )
            self._simulation = made
        return self._simulation

    def let_go(self, *, before_first_step: bool = False) -> bool:
        """Free the simulation unless an episode is under way; the next reset or step makes it again. Says whether.

        Args:
            before_first_step: also where an episode was begun and waits for its first action.
        """
        waits = self._observation is not None and self.steps == 0
        if self._acting or (waits and not before_first_step):
            return False
        self._simulation = None
        return True

    def reset(self, seed: int) -> Observation:
        """Begin the episode of `seed` and give its first observation; a pure function of (task, seed).

        Raises:
            UserError: a seed beyond the official initial states, or below 0.
        """
        official = seed - FIRST_OFFICIAL
        if seed < 0 or official >= len(self._official):
            raise UserError(
                f"There is no initial state {seed} of {self.task}: give 0 to {FIRST_OFFICIAL - 1} (drawn), or "
                f"{FIRST_OFFICIAL} to {FIRST_OFFICIAL + len(self._official) - 1} (the {OFFICIAL_STATES} official ones)."
            )
        self._seed, self._acting = seed, True  # nobody frees the simulation while it is being reset
        if official >= 0:
            self.simulation.reset_to(self._official[official], official)
        else:
            self.simulation.reset_by(seed)
        for _ in range(self._wait_steps):
            self.simulation.step(np.append(np.zeros(6), OPEN))
        self.steps, self._acting = 0, False
        return self._look()

    def step(self, action: np.ndarray) -> StepResult:
        """Act for one control step with `action` [7], clipped to -1..1.

        Raises:
            UserError: the action has another shape or holds a NaN or an infinity.
        """
        assert self._observation is not None, "an env is reset before its first step"
        if self._simulation is None:
            self.reset(self._seed)
        self._acting = True
        self.simulation.step(np.clip(_checked_action(action), self.action_low, self.action_high))
        self.steps += 1
        success = self.simulation.succeeded()
        done = success or self.steps >= self.max_steps
        self._acting = not done
        return StepResult(self._look(), success, done)

    def observe(self) -> Observation:
        """The present observation: what `reset` or `step` gave last."""
        assert self._observation is not None, "an env is reset before it is observed"
        return self._observation

    def state(self) -> Float32[np.ndarray, "8"]:
        """Place and rotation (axis times angle) of the end effector, and the fingers' positions [8] float32."""
        seen = self.simulation.observed
        rotation = axis_angle(seen["robot0_eef_quat"])
        return np.concatenate([seen["robot0_eef_pos"], rotation, seen["robot0_gripper_qpos"]]).astype(np.float32)

    def _look(self) -> Observation:
        known = {"observation.state": self.state(), "task": self.language}
        if not self.cameras:
            self._observation = known
        else:
            moment = self.simulation.look()
            draw = {f"observation.images.{name}": lambda name=name: moment.draw(name) for name in self.cameras}
            self._observation = LazyObservation(known, draw)
        return self._observation


_RESET: "weakref.WeakSet[LiberoEnv]" = weakref.WeakSet()
"""Envs of this process that have a simulation."""


def _let_go_of_idle(env: LiberoEnv) -> None:
    """Free the simulations of all other envs of this process that are not within an episode.

    One that waits for its first step is freed where memory is short alone: it would be made and reset a second time.
    """
    free = free_megabytes()
    is_short = free is not None and free < 2 * MEGABYTES
    for other in [each for each in _RESET if each is not env]:
        if other.let_go(before_first_step=is_short):
            _RESET.discard(other)
    # The package's objects point at each other, and Python looks at what has grown old so rarely (once the young are a
    # quarter of it: never, beside imported frameworks) that twenty simulations nobody holds would fill the memory.
    gc.collect()
    _RESET.add(env)


def axis_angle(quaternion: Float64[np.ndarray, "4"]) -> Float64[np.ndarray, "3"]:
    """A rotation [x, y, z, w] as its axis times its angle, 0 to 2 pi (as robosuite's `quat2axisangle` has it)."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    return quaternion[:3] * 2.0 * np.arccos(w) / sine


def _checked_action(action: np.ndarray) -> Float64[np.ndarray, "7"]:
    values = np.asarray(action, np.float64)
    if values.shape != (len(ACTION_NAMES),) or not np.isfinite(values).all():
        raise UserError(
            f"LIBERO takes {len(ACTION_NAMES)} finite numbers ({join_names(ACTION_NAMES)}) but was given "
            f"{values.tolist()} of shape {values.shape}: take a policy trained on a dataset of LIBERO, such as one "
            "that xp task=collect env=libero records, and check that its weights hold no NaN."
        )
    return values
