"""The negative control of every position-controlled robot: a policy that asks it to stay where it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class Noop:
    """Asks the robot to stay where it is: the last observed state [.., S] as every action of a chunk of H.

    For suites whose actions are places to be in the state's own units (S = A).
    """

    def __init__(self, horizon: int = 1):
        self._horizon = horizon

    def __call__(self, batch: Mapping[str, Any]) -> np.ndarray:
        """Actions [B, H, A] of a batch with states [B, T, S = A]."""
        return np.repeat(batch["observation.state"][:, -1:], self._horizon, axis=1)
