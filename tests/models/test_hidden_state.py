"""A policy that is not given its state acts as where observation dropout hid it in training."""

from dataclasses import replace

import numpy as np
import pytest
from octo_made_up import DATA, STATISTICS, made_batch, model_cfg

from xp.errors import UserError
from xp.models import build
from xp.models.hidden_state import StateHidden


@pytest.fixture(scope="module")
def policy():
    trainable = build(model_cfg(proprio=True), data=DATA, statistics=STATISTICS, horizon=2, seed=0)
    return trainable.policy(trainable.weights)


def test_a_hidden_state_is_what_dropout_hides(policy):
    batch = made_batch()
    seen = {name: value for name, value in batch.items() if not name.startswith("action")}
    hidden = StateHidden(policy, "eval.hide_state").predict(seen, seed=3)
    dropped = policy.predict({**seen, "observation_is_dropped": np.ones(4, dtype=bool)}, seed=3)
    np.testing.assert_array_equal(hidden, dropped)
    assert np.abs(hidden - policy.predict(seen, seed=3)).max() > 1e-4
    other = {**seen, "observation.state": seen["observation.state"] + 1}
    np.testing.assert_array_equal(StateHidden(policy, "eval.hide_state").predict(other, seed=3), hidden)


class Stateful:
    """A policy that needs its state, as LeRobot's do."""

    def __init__(self, spec):
        self.spec = spec

    def predict(self, observation, *, seed=0, **options):
        raise AssertionError("asked")


def test_a_policy_that_cannot_do_without_its_state_is_refused(policy):
    with pytest.raises(UserError, match=r"eval\.hide_state=true: this policy cannot act without its state.*=false"):
        StateHidden(Stateful(replace(policy.spec, optional_state=False)), "eval.hide_state")
    with pytest.raises(UserError, match="reads no state"):
        StateHidden(Stateful(replace(policy.spec, state_dim=0, optional_state=False)), "eval.hide_state")
