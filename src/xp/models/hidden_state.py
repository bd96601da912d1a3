# pyright: strict
"""A policy that is not given the robot's state: what its sensors are worth, and what it does when they fail."""

import numpy as np
from numpy.typing import NDArray

from xp.errors import UserError
from xp.models.acting import Acts
from xp.models.observation import STATE
from xp.models.policy import Batch, Seed


class StateHidden:
    """An `xp.models.acting.Acts` whose policy acts without `observation.state`, as where observation dropout hid it.

    Args:
        policy: reads a state, and can do without.
        key: of the configuration that asks for it, for the error.

    Raises:
        UserError: the policy reads no state, or cannot do without.
    """

    def __init__(self, policy: Acts, key: str) -> None:
        self.policy, self.spec = policy, policy.spec
        if not policy.spec.state_dim:
            raise UserError(f"{key}=true: the policy reads no state, so nothing would change. Type {key}=false")
        if not policy.spec.optional_state:
            raise UserError(
                f"{key}=true: this policy cannot act without its state (those can that mask what is missing, as "
                f"obs_dropout.rate does in their training). Type {key}=false"
            )

    def predict(self, observation: Batch, *, seed: Seed = 0, **options: object) -> NDArray[np.float32]:
        """Actions of the policy on what is left of the observation."""
        seen = {name: value for name, value in observation.items() if name != STATE}
        return self.policy.predict(seen, seed=seed, **options)
