"""The suite as a gymnasium env, and the configuration by which `lerobot-eval` makes it (`--env.type=xp_arm`)."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from xp.envs.arm.arm import HIGH, LOW, NAMES
from xp.envs.arm.env import ArmEnv

GYM_ID = "xp/Arm-v0"


class ArmGymEnv(gymnasium.Env):
    """One task of the suite with gymnasium's interface and the keys that LeRobot's env processing knows.

    An observation is {`pixels`: {camera: [h, w, 3] uint8}, `agent_pos`: [6] float32}, an action [6] float32: where each
    of the six shall be one control period later. The reward is 1 in the step that solves the task, which ends the
    episode, else 0; `is_success` in the info says the same. `reset(seed=N)` begins with the suite's initial state N.

    Args:
        task: name of a task.
        cameras: camera names.
        height: of every camera, pixels.
        width: of every camera, pixels.
        fps: control steps a second.
        max_steps: length limit; None is the suite's own (ten seconds).
        renderer: `raycast` or `gl`.
    """

    def __init__(
        self,
        task: str = "red_to_target",
        cameras: tuple[str, ...] = ("oblique", "wrist"),
        height: int = 96,
        width: int = 96,
        fps: int = 10,
        max_steps: int | None = None,
        renderer: str = "raycast",
    ) -> None:
        sizes = dict.fromkeys(cameras, (height, width))
        self._arm = ArmEnv(task, cameras=sizes, renderer=renderer, fps=fps, max_steps=max_steps)
        self.task = task
        self.task_description = self._arm.info.language
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps}
        self.render_mode = "rgb_array"
        self._max_episode_steps = self._arm.max_steps
        picture = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        state = gymnasium.spaces.Box(-np.inf, np.inf, (len(NAMES),), np.float32)
        pixels = gymnasium.spaces.Dict(dict.fromkeys(cameras, picture))
        self.observation_space = gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": state})
        self.action_space = gymnasium.spaces.Box(np.float32(LOW), np.float32(HIGH), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Begin the episode of `seed`; without one, of a number drawn from the env's own generator."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        return self._seen(self._arm.reset(number)), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Observation, reward, whether the task is solved, whether the time is up, and `is_success`."""
        result = self._arm.step(action)
        truncated = result.done and not result.success
        info = {"is_success": result.success}
        return self._seen(result.observation), float(result.success), result.success, truncated, info

    def render(self) -> np.ndarray:
        """The image [h, w, 3] of the first camera."""
        return next(iter(self._seen(self._arm.observe())["pixels"].values()))

    def _seen(self, observation: dict[str, Any]) -> dict[str, Any]:
        pixels = {name: observation[f"{OBS_IMAGES}.{name}"] for name in self._arm.cameras}
        return {"pixels": pixels, "agent_pos": observation[OBS_STATE]}


gymnasium.register(GYM_ID, entry_point="xp.envs.lerobot_arm.env:ArmGymEnv")


@EnvConfig.register_subclass("xp_arm")
@dataclass
class XpArmEnv(EnvConfig):
    """Options of the env; cameras and sizes must be those that the policy was trained on."""

    task: str | None = "red_to_target"
    fps: int = 10
    cameras: list[str] = field(default_factory=lambda: ["oblique", "wrist"])
    height: int = 96
    width: int = 96
    max_steps: int | None = None
    renderer: str = "raycast"

    def __post_init__(self) -> None:
        shape = (len(NAMES),)
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, shape),
            "agent_pos": PolicyFeature(FeatureType.STATE, shape),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE}
        for camera in self.cameras:
            self.features[f"pixels/{camera}"] = PolicyFeature(FeatureType.VISUAL, (self.height, self.width, 3))
            self.features_map[f"pixels/{camera}"] = f"{OBS_IMAGES}.{camera}"

    @property
    def gym_id(self) -> str:
        """The name in gymnasium's registry."""
        return GYM_ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of `ArmGymEnv`."""
        names = ("task", "height", "width", "fps", "max_steps", "renderer")
        return {"cameras": tuple(self.cameras), **{name: getattr(self, name) for name in names}}
