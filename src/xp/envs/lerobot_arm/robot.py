"""The suite's arm as a LeRobot robot: `lerobot-rollout` drives it as it drives an SO-101 (`--robot.type=xp_arm`)."""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from xp.envs.arm.arm import NAMES
from xp.envs.arm.env import ArmEnv

logger = logging.getLogger(__name__)


@RobotConfig.register_subclass("xp_arm")
@dataclass(kw_only=True)
class XpArmConfig(RobotConfig):
    """Options of the simulated robot; views and sizes must be those that the policy was trained on."""

    task: str = "red_to_target"
    seed: int = 1_000_000
    """The initial state of the first episode; each later one has the next number."""
    views: list[str] = field(default_factory=lambda: ["oblique", "wrist"])
    height: int = 96
    width: int = 96
    fps: int = 10
    """Control steps a second of the simulation; give `--fps` of the rollout the same."""
    renderer: str = "raycast"


class XpArm(Robot):
    """An arm in simulation. Each action moves it on by one control period; when a task is solved or its time is up, the
    next episode begins.
    """

    config_class = XpArmConfig
    name = "xp_arm"

    def __init__(self, config: XpArmConfig) -> None:
        super().__init__(config)
        self.config = config
        self.episodes, self.solved = 0, 0
        self._arm: ArmEnv | None = None

    @property
    def observation_features(self) -> dict[str, Any]:
        """Six joint positions and the views [h, w, 3]."""
        size = (self.config.height, self.config.width, 3)
        return {**dict.fromkeys(NAMES, float), **dict.fromkeys(self.config.views, size)}

    @property
    def action_features(self) -> dict[str, Any]:
        """Six joint targets."""
        return dict.fromkeys(NAMES, float)

    @property
    def is_connected(self) -> bool:
        """Whether there is a simulation."""
        return self._arm is not None

    @property
    def is_calibrated(self) -> bool:
        """True."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Build the simulation and begin the first episode."""
        sizes = dict.fromkeys(self.config.views, (self.config.height, self.config.width))
        self._arm = ArmEnv(self.config.task, cameras=sizes, renderer=self.config.renderer, fps=self.config.fps)
        self._arm.reset(self.config.seed)

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> dict[str, Any]:
        """Joint positions by name (radians, gripper 0..1) and images."""
        seen = self._simulation().observe()
        views = {name: seen[f"{OBS_IMAGES}.{name}"] for name in self.config.views}
        return {**dict(zip(NAMES, map(float, seen[OBS_STATE]))), **views}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Move towards the targets for one control period; what was sent, clipped to the joints' ranges."""
        arm = self._simulation()
        result = arm.step(np.array([action[name] for name in NAMES]))
        sent = dict(zip(NAMES, map(float, arm.command)))
        if result.done:
            self.episodes, self.solved = self.episodes + 1, self.solved + result.success
            logger.info("xp_arm: %d of %d episodes solved", self.solved, self.episodes)
            arm.reset(self.config.seed + self.episodes)
        return sent

    def disconnect(self) -> None:
        """Let the simulation go."""
        self._arm = None

    def _simulation(self) -> ArmEnv:
        if self._arm is None:
            raise RuntimeError("xp_arm is not connected: call connect() first.")
        return self._arm
