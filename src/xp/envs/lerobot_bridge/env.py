"""A suite as a gymnasium env, and the configuration by which `lerobot-eval` makes it (`--env.type=xp_suite`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import gymnasium
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from xp.envs.lerobot_bridge.chosen import chosen_cameras, chosen_suite, chosen_task
from xp.envs.suite import Observation
from xp.json_types import JSON, JSONObject

GYM_ID = "xp/Suite-v0"


class Seen(TypedDict):
    """An observation by the keys of LeRobot's env processing."""

    pixels: dict[str, np.ndarray]
    agent_pos: np.ndarray


class SuiteGymEnv(gymnasium.Env):
    """One task of a suite with gymnasium's interface and the keys that LeRobot's env processing knows.

    An observation is {`pixels`: {camera: [h, w, 3] uint8}, `agent_pos`: [S] float32}, an action [A] float32. The reward
    is 1 in the step that solves the task, which ends the episode, else 0; `is_success` in the info says the same.
    `reset(seed=N)` begins with the suite's initial state N.

    Args:
        suite: name of an installed suite.
        task: name of a task; None is the suite's first.
        cameras: camera names; None are the suite's own defaults.
        height: of every camera, pixels; None as the suite has it.
        width: of every camera, pixels; None as the suite has it.
        fps: control steps a second; None as the suite has it.
        max_steps: length limit; None is the suite's own.
        options: the suite's own keys of xp's `env` section.

    Raises:
        UserError: no such suite, task, camera or option.
    """

    def __init__(
        self,
        suite: str,
        task: str | None = None,
        cameras: Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: int | None = None,
        max_steps: int | None = None,
        options: JSONObject | None = None,
    ) -> None:
        chosen = chosen_suite(suite, options or {}, fps=fps, max_steps=max_steps)
        self.task = chosen_task(chosen, task)
        sizes = chosen_cameras(chosen, cameras, height, width)
        self._env = chosen.make(self.task, cameras=sizes)
        self.task_description = self._env.language
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self._env.fps}
        self.render_mode = "rgb_array"
        self._max_episode_steps = self._env.max_steps
        pixels: dict[str, gymnasium.Space] = {
            name: gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8) for name, size in sizes.items()
        }
        state = gymnasium.spaces.Box(-np.inf, np.inf, (len(chosen.state_names),), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"pixels": gymnasium.spaces.Dict(pixels), "agent_pos": state})
        low, high = np.float32(self._env.action_low), np.float32(self._env.action_high)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[Seen, dict[str, bool]]:
        """Begin the episode of `seed`; without one, of a number drawn from the env's own generator."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        return self._seen(self._env.reset(number)), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[Seen, float, bool, bool, dict[str, bool]]:
        """Observation, reward, whether the task is solved, whether the time is up, and `is_success`."""
        result = self._env.step(action)
        truncated = result.done and not result.success
        info = {"is_success": result.success}
        return self._seen(result.observation), float(result.success), result.success, truncated, info

    def render(self) -> np.ndarray:
        """The image [h, w, 3] of the first camera."""
        return next(iter(self._seen(self._env.observe())["pixels"].values()))

    def _seen(self, observation: Observation) -> Seen:
        pixels = {name: np.asarray(observation[f"{OBS_IMAGES}.{name}"]) for name in self._env.cameras}
        return {"pixels": pixels, "agent_pos": np.asarray(observation[OBS_STATE])}


gymnasium.register(GYM_ID, entry_point="xp.envs.lerobot_bridge.env:SuiteGymEnv")


@EnvConfig.register_subclass("xp_suite")
@dataclass
class XpSuiteEnv(EnvConfig):
    """Options of the env, as in `SuiteGymEnv`; cameras and sizes must be those that the policy was trained on."""

    suite: str = ""
    task: str | None = None
    fps: int = 10
    cameras: list[str] | None = None
    height: int | None = None
    width: int | None = None
    max_steps: int | None = None
    options: dict[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        suite = chosen_suite(self.suite, self.options, fps=self.fps, max_steps=self.max_steps)
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (len(suite.action_names),)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (len(suite.state_names),)),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE}
        for camera, size in chosen_cameras(suite, self.cameras, self.height, self.width).items():
            self.features[f"pixels/{camera}"] = PolicyFeature(FeatureType.VISUAL, (*size, 3))
            self.features_map[f"pixels/{camera}"] = f"{OBS_IMAGES}.{camera}"

    @property
    def gym_id(self) -> str:
        """The name in gymnasium's registry."""
        return GYM_ID

    @property
    def gym_kwargs(self) -> dict[str, JSON]:
        """Arguments of `SuiteGymEnv`."""
        names = ("suite", "task", "cameras", "height", "width", "fps", "max_steps", "options")
        return {name: getattr(self, name) for name in names}
