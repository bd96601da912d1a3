"""Walks of several equal robots side by side, stepped together by MuJoCo's own threads.

The formulas are those of the Genesis environments that Vintix's quadruped fork is trained in (`locomotion/go2_env.py`):
targets are the default pose plus the scaled action of the step before (latency); what is rewarded and observed follows
the physics. Unlike there, the step in which a robot falls is rewarded and observed as it is, before the next episode.

An episode is a pure function of (seed, actions): what stands beside it changes no bit of it.

N robots; arrays are [N, ...].
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from xp.envs.batch import BatchStep
from xp.envs.mujoco_import import mujoco
from xp.envs.mujoco_types import MjModel
from xp.envs.quadruped.model import TIMESTEP
from xp.envs.quadruped.scene import scene_of
from xp.envs.quadruped.settings import FACTORS, OBSERVATION_SCALES, PUSH_SECONDS, TRACKING, Settings

_SCALES = np.array(OBSERVATION_SCALES)


class Simulation:
    """N robots of one kind, an `xp.envs.batch.BatchEnv`: each begins its episodes by itself, all step together."""

    action_dim = 12

    def __init__(self, settings: Settings, count: int, *, threads: int = 1) -> None:
        """Makes the models; `threads` share the physics of a step."""
        from mujoco import rollout

        self.settings, self.count = settings, count
        self.scene = scene_of(settings)
        self.model: MjModel = self.scene.model
        self._models: list[MjModel] = [self.model] * count
        self._threads = [mujoco.MjData(self.model) for _ in range(threads)]
        self._physics = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self._substeps = round(1 / settings.fps / TIMESTEP)
        size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._pose = np.array(settings.robot.default_pose)
        self._signs = np.array(settings.robot.own_signs if settings.own_signs else (1.0,) * 12)
        self._command, self._weights = np.array(settings.command), dict(settings.reward)
        self._states = np.zeros((count, size))
        self._states[:, 4] = 1.0  # a quaternion
        self._walked = np.empty((count, self._substeps, size))
        self._targets = np.empty((count, self._substeps, 12))
        self._sensed = np.empty((count, self._substeps, 0))
        self._vectors = np.zeros((2, count, 3))
        self._vectors[0, :, 2] = -1.0  # which way gravity points; beside it the trunks' velocities
        self._actions = np.zeros((count, 12))
        self._pushes: list[np.random.Generator] = [np.random.default_rng(0)] * count
        self._model_of: list[tuple[float, ...]] = [(1.0,) * len(FACTORS)] * count
        self.steps: Int[np.ndarray, " N"] = np.zeros(count, np.int64)
        """Of each robot since its episode began."""

    @property
    def max_steps(self) -> int:
        """Steps of an episode."""
        return self.settings.max_steps

    @property
    def largest_return(self) -> float:
        """Of an episode."""
        return self.settings.largest_return

    def close(self) -> None:
        """End the threads."""
        self._physics.close()

    @property
    def states(self) -> Float64[np.ndarray, "N S"]:
        """Time, `positions` and `velocities` of each robot."""
        return self._states

    @property
    def positions(self) -> Float64[np.ndarray, "N 19"]:
        """MuJoCo's `qpos`: the trunk's place [3] and quaternion [4], the joints [12] in canonical order and signs."""
        return self._states[:, 1:20]

    @property
    def velocities(self) -> Float64[np.ndarray, "N 18"]:
        """MuJoCo's `qvel`: velocity in the world [3] and turning in its own frame [3] of the trunk, joints' [12]."""
        return self._states[:, 20:38]

    def reset(self, seeds: Sequence[int], rows: Sequence[int] | None = None) -> Float32[np.ndarray, "rows 33"]:
        """Begin the episodes of `seeds` in `rows` (all, where none are given) and give their first observations."""
        chosen = range(self.count) if rows is None else rows
        noise, robot = self.settings.initial_noise, self.settings.robot
        for row, seed in zip(chosen, seeds, strict=True):
            draws = np.random.default_rng([seed, 0])
            joints, velocity = draws.uniform(-noise, noise, 12), draws.uniform(-2 * noise, 2 * noise, 6)
            self._randomise(row, draws)
            state = self._states[row]
            state[:] = 0.0
            state[3], state[4] = robot.initial_height, 1.0
            state[8:20] = self._pose + joints
            state[20:26] = velocity
            self._actions[row], self.steps[row] = 0.0, 0
            self._pushes[row] = np.random.default_rng([seed, 1])
        return self.observations()[list(chosen)]

    def step(self, actions: Float[np.ndarray, "N 12"]) -> BatchStep:
        """One control step of all robots. A robot has ended where it tilts too far, or is or acts no longer finite."""
        finite = np.asarray(np.isfinite(actions).all(1))
        wanted = self._wanted(actions, finite)
        self._push()
        self._walk(wanted)
        broken = ~np.isfinite(self._states).all(1)
        if broken.any():
            self._states[broken] = 0.0
            self._states[broken, 4] = 1.0
        gravity, velocity = self._in_own_frames()
        bent = self.positions[:, 7:] - self._pose
        reward = self._rewards(velocity, bent, wanted - self._actions)
        reward[broken] = 0.0
        self._actions = wanted
        self.steps += 1
        return BatchStep(self._observed(gravity, bent), reward, self._tilted() | broken | ~finite)

    def observations(self) -> Float32[np.ndarray, "N 33"]:
        """What each robot observes now."""
        return self._observed(self._in_own_frames()[0], self.positions[:, 7:] - self._pose)

    def motion(self) -> Float64[np.ndarray, "N 4"]:
        """Velocity of each trunk in its own frame [3], m/s, and its height, m."""
        return np.concatenate([self._in_own_frames()[1], self.positions[:, 2:3]], axis=1)

    def _wanted(
        self, actions: Float[np.ndarray, "N 12"], finite: Bool[np.ndarray, " N"]
    ) -> Float64[np.ndarray, "N 12"]:
        """The actions within the limit, in canonical signs; zeros where one is not finite."""
        limit = self.settings.action_limit
        if not finite.all():
            actions = np.where(finite[:, None], actions, 0.0)
        return np.minimum(np.maximum(actions, -limit), limit).astype(np.float64) * self._signs

    def _walk(self, wanted: Float64[np.ndarray, "N 12"]) -> None:
        """The physics of a control step.

        Without MuJoCo's checks and with arrays that are kept: at a step of 30 microseconds a robot, both would be seen.
        """
        settings = self.settings
        executed = self._actions if settings.latency else wanted
        self._targets[:] = (self._pose + settings.action_scale * executed)[:, None]
        self._physics.rollout(
            self._models,
            self._threads,
            self.scene.to_model(self._states),
            self._targets,
            skip_checks=True,
            nstep=self._substeps,
            state=self._walked,
            sensordata=self._sensed,
        )
        self._states = self.scene.from_model(self._walked[:, -1])

    def _in_own_frames(self) -> Float64[np.ndarray, "2 N 3"]:
        """The direction of gravity and the velocity of each trunk, in its own frame."""
        self._vectors[1] = self.velocities[:, :3]
        return turned_back(self.positions[:, 3:7], self._vectors)

    def _observed(
        self, gravity: Float64[np.ndarray, "N 3"], bent: Float64[np.ndarray, "N 12"]
    ) -> Float32[np.ndarray, "N 33"]:
        """The observation, with `bent` the joints relative to the default pose."""
        seen = np.empty((self.count, 33))
        seen[:, :3] = self.velocities[:, 3:6]
        seen[:, 3:6] = gravity
        seen[:, 6:9] = self._command
        np.multiply(bent, self._signs, out=seen[:, 9:21])
        np.multiply(self.velocities[:, 6:], self._signs, out=seen[:, 21:])
        seen *= _SCALES
        return seen.astype(np.float32)

    def _rewards(
        self,
        velocity: Float64[np.ndarray, "N 3"],
        bent: Float64[np.ndarray, "N 12"],
        change: Float64[np.ndarray, "N 12"],
    ) -> Float64[np.ndarray, " N"]:
        terms = {
            "velocity": np.exp(-((self._command[:2] - velocity[:, :2]) ** 2).sum(1) / TRACKING),
            "yaw_rate": np.exp(-((self._command[2] - self.velocities[:, 5]) ** 2) / TRACKING),
            "vertical_speed": velocity[:, 2] ** 2,
            "height": (self.positions[:, 2] - self.settings.robot.target_height) ** 2,
            "action_change": (change**2).sum(1),
            "pose": np.abs(bent).sum(1),
        }
        total = np.zeros(self.count)
        for name, term in terms.items():
            total += self._weights[name] * term
        return total / self.settings.fps

    def _tilted(self) -> Bool[np.ndarray, " N"]:
        w, x, y, z = self.positions[:, 3:7].T
        roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x**2 + y**2))
        pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1.0, 1.0))
        return np.maximum(np.abs(roll), np.abs(pitch)) > self.settings.most_tilt

    def _push(self) -> None:
        speed, every = self.settings.randomisation.push, round(PUSH_SECONDS * self.settings.fps)
        if not speed:
            return
        for row in np.flatnonzero((self.steps > 0) & (self.steps % every == 0)):
            angle = self._pushes[row].uniform(0, 2 * np.pi)
            self._states[row, 20:22] += speed * np.array([np.cos(angle), np.sin(angle)])

    def _randomise(self, row: int, draws: np.random.Generator) -> None:
        bounds = self.settings.randomisation
        factors = tuple(float(draws.uniform(*getattr(bounds, name))) for name in FACTORS)
        if bounds.changes_models and factors != self._model_of[row]:
            friction, mass, gains = factors
            self._models[row] = self.scene.varied(friction=friction, trunk_mass=mass, gains=gains)
            self._model_of[row] = factors


def turned_back(
    quaternion: Float64[np.ndarray, "N 4"], vector: Float64[np.ndarray, "*given 3"]
) -> Float64[np.ndarray, "*rows N 3"]:
    """Vectors of the world in the frames that the quaternions (w, x, y, z) turn to."""
    w, x, y, z = quaternion.T
    a, b, c = vector[..., 0], vector[..., 1], vector[..., 2]
    s, t, u = 2 * (z * b - y * c), 2 * (x * c - z * a), 2 * (y * a - x * b)  # twice the cross product with (-x, -y, -z)
    turned = np.empty((*s.shape, 3))
    turned[..., 0] = a + w * s + z * t - y * u
    turned[..., 1] = b + w * t + x * u - z * s
    turned[..., 2] = c + w * u + y * s - x * t
    return turned
