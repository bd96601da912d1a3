"""Simulated suites for LeRobot's commands: an env for `lerobot-eval`, a robot for `lerobot-rollout`.

Both are found by LeRobot's own option for packages, are called `xp_suite`, and take any installed suite by its name:

    lerobot-eval --policy.path=RUN/final --env.discover_packages_path=xp.envs.lerobot_bridge --env.type=xp_suite --env.suite=arm
    lerobot-rollout --policy.path=RUN/final --robot.discover_packages_path=xp.envs.lerobot_bridge --robot.type=xp_suite --robot.suite=arm
"""  # noqa: E501 - commands to copy

from xp.envs.lerobot_bridge.env import SuiteGymEnv, XpSuiteEnv
from xp.envs.lerobot_bridge.robot import XpSuite, XpSuiteConfig

__all__ = ["SuiteGymEnv", "XpSuite", "XpSuiteConfig", "XpSuiteEnv"]
