"""The embedded arm as LeRobot's commands know things: an env for `lerobot-eval`, a robot for `lerobot-rollout`.

Both are found by LeRobot's own option for packages, and are called `xp_arm`:

    lerobot-eval --policy.path=RUN/final --env.discover_packages_path=xp.envs.lerobot_arm --env.type=xp_arm
    lerobot-rollout --policy.path=RUN/final --robot.discover_packages_path=xp.envs.lerobot_arm --robot.type=xp_arm
"""

from xp.envs.lerobot_arm.env import ArmGymEnv, XpArmEnv
from xp.envs.lerobot_arm.robot import XpArm, XpArmConfig

__all__ = ["ArmGymEnv", "XpArm", "XpArmConfig", "XpArmEnv"]
