"""The package's simulation of one task: made without a renderer, reset to any initial state, read and drawn.

robosuite opens a GL backend when it is imported, writes a log to /tmp and warns of settings that it misses. Its
settings (`robosuite.macros`) are therefore loaded before it, with these off; pictures are drawn by `xp.envs.gl`.
"""

import functools
import importlib
import importlib.util
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from xp.envs.gl import GlRenderer
from xp.envs.libero.resources import INSTALL
from xp.envs.mujoco_import import mujoco
from xp.errors import UserError

LEAST_MUJOCO = (3, 17)
"""The package calls `mj_fullM` as MuJoCo 3.17 has it; on 3.8 the first step raises a TypeError."""
COLLISION_GROUP = 0
"""Of robosuite's shapes: those that collide, which its pictures do not show."""
_SEEN = (
    "xpos", "xquat", "xmat", "xipos", "ximat", "subtree_com", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat",
    "cam_xpos", "cam_xmat", "light_xpos", "light_xdir",
)  # fmt: skip
"""What `mjv_updateScene` reads of MjData for a scene without tendons and skins."""


_WATCHED = "robot0_eef_pos"
"""The observed number whose sampling tells when the package looks."""


@functools.cache
def control_env() -> Any:
    """The package's class of an env that is driven from outside (`ControlEnv`); untyped, as all of its code.

    Raises:
        UserError: MuJoCo is too old for it, or a package that it needs cannot be imported.
    """
    if tuple(int(part) for part in mujoco.__version__.split(".")[:2]) < LEAST_MUJOCO:
        raise UserError(f"env.name=libero needs MuJoCo 3.17 or newer, found {mujoco.__version__}. Type: {INSTALL}")
    try:
        with _without_gl(), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            _quiet_settings()
            return importlib.import_module("libero.libero.envs.env_wrapper").ControlEnv
    except ImportError as error:
        raise UserError(f"env.name=libero: {error}. The extra is incomplete; type: {INSTALL}") from error


@contextmanager
def _without_gl() -> Iterator[None]:
    asked = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL", None)
        if asked is not None:
            os.environ["MUJOCO_GL"] = asked


def _quiet_settings() -> None:
    name = "robosuite.macros"
    if name in sys.modules:
        return
    package = importlib.util.find_spec("robosuite")
    if package is None or package.origin is None:
        raise ImportError("the package robosuite is missing")
    spec = importlib.util.spec_from_file_location(name, Path(package.origin).with_name("macros.py"))
    assert spec is not None and spec.loader is not None
    settings: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(settings)
    settings.MUJOCO_GPU_RENDERING = False
    settings.FILE_LOGGING_LEVEL = None
    settings.CONSOLE_LOGGING_LEVEL = None
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    sys.modules[name] = settings


class Simulation:
    """One task, simulated by the package's own classes.

    Args:
        bddl: the task's file.
        cameras: camera name to (height, width); nothing is opened for an empty mapping.
        fast: pictures without shadows, reflections and multi-sampling.

    Raises:
        UserError: as `control_env`; or no GL backend draws here (with cameras).
    """

    def __init__(self, bddl: Path, cameras: Mapping[str, tuple[int, int]], *, fast: bool):
        make = control_env()
        with _seeded(0):
            self._control = make(
                bddl_file_name=str(bddl), use_camera_obs=False, has_offscreen_renderer=False, ignore_done=True
            )
        self._env = self._control.env
        self._env.hard_reset = False  # the model stays: a reset is a hundred times cheaper, and the same state
        self.model: Any = self._env.sim.model._model
        self.data: Any = self._env.sim.data._data
        self.observed: Mapping[str, np.ndarray] = {}
        self._random_states: list[Any] = []
        self._renderer = None
        if cameras:
            if fast:
                self.model.vis.quality.shadowsize = self.model.vis.quality.offsamples = 0
            self._renderer = GlRenderer(
                self.model,
                cameras,
                effects=not fast,
                hidden_groups=(COLLISION_GROUP,),
                instead=", or leave the pictures out: xp task=eval eval=expert scores the expert without any",
            )
            self._scratch: Any = mujoco.MjData(self.model)
            self._moment = self._now()
            self._env.modify_observable(_WATCHED, "filter", self._note_moment)

    @property
    def state_size(self) -> int:
        """How many numbers an initial state has: time, positions, velocities."""
        return 1 + self.model.nq + self.model.nv

    @property
    def goals(self) -> list[list[str]]:
        """The task's goals, all of which must hold: [predicate, object] or [predicate, object, other]."""
        return [list(goal) for goal in self._env.parsed_problem["goal_state"]]

    @property
    def movable(self) -> tuple[str, ...]:
        """Names of the objects that can be carried."""
        return tuple(self._env.objects_dict)

    def reset_to(self, state: Float[np.ndarray, " numbers"], index: int) -> None:
        """Begin at an official initial state, the `index`-th of its task.

        An initial state does not say where fixtures (a cabinet, a stove) stand: the simulation draws that at each
        reset. The published evaluations draw it from NumPy's global generator, seeded with 0 once a task, for one
        episode after the other; so is it drawn here, whatever the order in which episodes are asked for.
        """
        if not self._has_fixtures():
            index = 0
        while len(self._random_states) <= index:
            begin = self._random_states[-1] if self._random_states else None
            with _seeded(0, begin):
                if begin is not None:
                    self._restart()
                self._random_states.append(np.random.get_state())
        with _seeded(0, self._random_states[index]):
            self._restart()
        self.observed = self._control.set_init_state(np.asarray(state))

    def reset_by(self, seed: int) -> None:
        """Begin at a state drawn by the task's own rules (the regions of its file) from `seed`."""
        with _seeded(seed):
            self._restart()
        self.observed = self._control.set_init_state(self._control.get_sim_state())

    def _restart(self) -> None:
        """Reset as the package does when it builds everything anew: its grippers remember their last command."""
        for robot in self._env.robots:
            robot.gripper.current_action = np.zeros(robot.gripper.dof)
        self._control.reset()

    def _has_fixtures(self) -> bool:
        return any(name not in ("floor", "main_table") for name in self._env.fixtures_dict)

    def step(self, action: Float[np.ndarray, "7"]) -> None:
        """Act for one control step."""
        self.observed = self._control.step(action)[0]

    def succeeded(self) -> bool:
        """Whether all goals hold now."""
        return bool(self._control.check_success())

    def holds(self, goal: Sequence[str]) -> bool:
        """Whether one of the task's goals holds now."""
        return bool(self._env._eval_predicate(list(goal)))

    def position(self, name: str) -> Float[np.ndarray, "3"]:
        """Where an object, a fixture or a region is, in metres."""
        if name in self._env.obj_body_id:
            return np.array(self.data.xpos[self._env.obj_body_id[name]])
        return np.array(self._env.sim.data.get_site_xpos(name))

    def extent(self, name: str) -> tuple[float, float]:
        """From which height to which an object reaches that can be touched, in metres."""
        inside = {self._env.obj_body_id[name]}
        for body, parent in enumerate(self.model.body_parentid):  # a parent comes before what hangs on it
            inside |= {body} if parent in inside else set()
        solid = (self.model.geom_contype | self.model.geom_conaffinity) != 0
        shapes = np.flatnonzero(solid & np.isin(self.model.geom_bodyid, list(inside)))
        heights = np.concatenate([self._corners(shape)[:, 2] for shape in shapes])
        return float(heights.min()), float(heights.max())

    def _corners(self, shape: int) -> Float[np.ndarray, "corners 3"]:
        """Points between which a shape lies: a mesh's vertices, or the corners of the box around any other."""
        if (mesh := self.model.geom_dataid[shape]) >= 0:
            first = self.model.mesh_vertadr[mesh]
            local = self.model.mesh_vert[first : first + self.model.mesh_vertnum[mesh]]
        else:
            middle, half = np.split(self.model.geom_aabb[shape], 2)
            local = middle + half * list(itertools.product((-1, 1), repeat=3))
        return local @ self.data.geom_xmat[shape].reshape(3, 3).T + self.data.geom_xpos[shape]

    def rotation(self, name: str) -> Float[np.ndarray, "3 3"]:
        """How an object or fixture is turned."""
        return np.array(self.data.xmat[self._env.obj_body_id[name]]).reshape(3, 3)

    def look(self) -> "Moment":
        """The moment of the present observation, to be drawn when somebody asks.

        The package samples what it observes, numbers and pictures, before a control step ends (measured: behind 24 of
        its 25 steps of physics), so a picture of the very end is another one.
        """
        assert self._renderer is not None, "made without cameras"
        return self._moment

    def _note_moment(self, value: np.ndarray) -> np.ndarray:
        """What the package calls whenever it samples an observed number."""
        self._moment = self._now()
        return value

    def _now(self) -> "Moment":
        return Moment(self, {name: getattr(self.data, name).copy() for name in _SEEN}, self.model.site_rgba.copy())

    def draw(self, moment: "Moment", camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """What a camera saw in a moment, turned by 180 degrees as published: upright, and left and right exchanged.

        (The package gives pictures as OpenGL does, bottom row first; the published evaluations and LeRobot's conversion
        turn these by 180 degrees.)
        """
        assert self._renderer is not None
        for name, values in moment.seen.items():
            getattr(self._scratch, name)[:] = values
        now = self.model.site_rgba.copy()
        self.model.site_rgba[:] = moment.site_rgba
        try:
            return np.ascontiguousarray(self._renderer.render(self._scratch, camera)[:, ::-1])
        finally:
            self.model.site_rgba[:] = now


class Moment:
    """What of a simulation can be seen at one time."""

    def __init__(self, simulation: Simulation, seen: Mapping[str, np.ndarray], site_rgba: np.ndarray):
        self._simulation, self.seen, self.site_rgba = simulation, seen, site_rgba

    def draw(self, camera: str) -> UInt8[np.ndarray, "height width 3"]:
        """The picture [h, w, 3] of a camera."""
        return self._simulation.draw(self, camera)


@contextmanager
def _seeded(seed: int, state: Any = None) -> Iterator[None]:
    """NumPy's global generator, from which the package draws: seeded (or set) inside, as it was outside."""
    before = np.random.get_state()
    if state is None:
        np.random.seed(seed)
    else:
        np.random.set_state(state)
    try:
        yield
    finally:
        np.random.set_state(before)
