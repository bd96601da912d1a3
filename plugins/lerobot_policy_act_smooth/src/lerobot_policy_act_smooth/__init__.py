"""LeRobot plugin: the policy type `act_smooth`, and processor steps that any LeRobot policy can use.

LeRobot's commands import this package because its distribution is named `lerobot_policy_act_smooth`; in a script of
your own, `import lerobot_policy_act_smooth` before asking LeRobot for the type `act_smooth`.
"""

from lerobot_policy_act_smooth.configuration_act_smooth import ACTSmoothConfig
from lerobot_policy_act_smooth.statistics import delta_statistics
from lerobot_policy_act_smooth.steps import (
    AbsoluteFromAnchorStep,
    ObservationDropoutStep,
    RelativeToAnchorStep,
    pair_anchor_steps,
)

__all__ = [
    "ACTSmoothConfig",
    "AbsoluteFromAnchorStep",
    "ObservationDropoutStep",
    "RelativeToAnchorStep",
    "delta_statistics",
    "pair_anchor_steps",
]
