"""A suite's robot as a LeRobot robot: `lerobot-rollout` drives it as it drives a real one (`--robot.type=xp_suite`)."""

import logging
from dataclasses import dataclass, field

import numpy as np
from lerobot.robots import Robot, RobotConfig
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from xp.envs.lerobot_bridge.chosen import chosen_cameras, chosen_suite, chosen_task
from xp.envs.suite import Env
from xp.json_types import JSON

logger = logging.getLogger(__name__)


@RobotConfig.register_subclass("xp_suite")
@dataclass(kw_only=True)
class XpSuiteConfig(RobotConfig):
    """Options of the simulated robot; views and sizes must be those that the policy was trained on."""

    suite: str = ""
    """Name of an installed suite."""
    task: str | None = None
    """None is the suite's first."""
    seed: int = 1_000_000
    """The initial state of the first episode; each later one has the next number."""
    views: list[str] | None = None
    """Cameras; None are the suite's own defaults."""
    height: int | None = None
    width: int | None = None
    fps: int = 10
    """Control steps a second of the simulation; give `--fps` of the rollout the same."""
    options: dict[str, JSON] = field(default_factory=dict)
    """The suite's own keys of xp's `env` section."""


class XpSuite(Robot):
    """A robot in simulation. Each action moves it on by one control period; when a task is solved or its time is up,
    the next episode begins.
    """

    config_class = XpSuiteConfig
    name = "xp_suite"

    def __init__(self, config: XpSuiteConfig) -> None:
        super().__init__(config)
        self.config = config
        self.episodes, self.solved = 0, 0
        self._suite = chosen_suite(config.suite, config.options, fps=config.fps)
        self._views = chosen_cameras(self._suite, config.views, config.height, config.width)
        self._env: Env | None = None

    @property
    def observation_features(self) -> dict[str, type | tuple[int, int, int]]:
        """The state by name and the views [h, w, 3]."""
        views = {name: (*size, 3) for name, size in self._views.items()}
        return {**dict.fromkeys(self._suite.state_names, float), **views}

    @property
    def action_features(self) -> dict[str, type]:
        """The action by name."""
        return dict.fromkeys(self._suite.action_names, float)

    @property
    def is_connected(self) -> bool:
        """Whether there is a simulation."""
        return self._env is not None

    @property
    def is_calibrated(self) -> bool:
        """True."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Build the simulation and begin the first episode."""
        self._env = self._suite.make(chosen_task(self._suite, self.config.task), cameras=self._views)
        self._env.reset(self.config.seed)

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> dict[str, float | np.ndarray]:
        """The state by name, in the suite's units, and images."""
        seen = self._simulation().observe()
        views = {name: np.asarray(seen[f"{OBS_IMAGES}.{name}"]) for name in self._views}
        return {**dict(zip(self._suite.state_names, map(float, seen[OBS_STATE]))), **views}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Act for one control period; what was sent, clipped to the actions' ranges."""
        env, names = self._simulation(), self._suite.action_names
        values = np.array([action[name] for name in names], np.float64)
        result = env.step(values)
        sent = dict(zip(names, np.clip(values, env.action_low, env.action_high).tolist()))
        if result.done:
            self.episodes, self.solved = self.episodes + 1, self.solved + result.success
            logger.info("xp_suite: %d of %d episodes solved", self.solved, self.episodes)
            env.reset(self.config.seed + self.episodes)
        return sent

    def disconnect(self) -> None:
        """Let the simulation go."""
        self._env = None

    def _simulation(self) -> Env:
        if self._env is None:
            raise RuntimeError("xp_suite is not connected: call connect() first.")
        return self._env
