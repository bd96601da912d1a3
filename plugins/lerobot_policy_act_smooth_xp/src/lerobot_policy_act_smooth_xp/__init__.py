"""LeRobot plugin: the policy type `act_smooth`, and processor steps that any LeRobot policy can use.

LeRobot's commands import this package because its distribution is named `lerobot_policy_act_smooth_xp`; in a script of
your own, `import lerobot_policy_act_smooth_xp` before asking LeRobot for the type `act_smooth`.

The first ACT-smooth, `lerobot_policy_act_smooth`, registers the same type: an environment can have one of the two.
"""

import importlib.metadata
import importlib.util

FIRST = "lerobot_policy_act_smooth"

if importlib.util.find_spec(FIRST) is not None and list(importlib.metadata.distributions(name=FIRST)):
    raise ImportError(
        f"Two plugins bring the policy type act_smooth: {FIRST} (the first ACT-smooth) and {__name__}. Which of them "
        f"is used would be left to chance. Remove one: `pip uninstall {FIRST}` (this one loads its checkpoints), or "
        f"`pip uninstall {__name__}`"
    )

from lerobot_policy_act_smooth_xp.configuration_act_smooth import ACTSmoothConfig  # noqa: E402
from lerobot_policy_act_smooth_xp.resize import LanczosResizeStep  # noqa: E402
from lerobot_policy_act_smooth_xp.statistics import delta_statistics  # noqa: E402
from lerobot_policy_act_smooth_xp.steps import (  # noqa: E402
    AbsoluteFromAnchorStep,
    ObservationDropoutStep,
    RelativeToAnchorStep,
    pair_anchor_steps,
)

__all__ = [
    "ACTSmoothConfig",
    "AbsoluteFromAnchorStep",
    "LanczosResizeStep",
    "ObservationDropoutStep",
    "RelativeToAnchorStep",
    "delta_statistics",
    "pair_anchor_steps",
]
