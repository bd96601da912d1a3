"""Actions that are given in training and in sampling: they are clean, cost nothing, and stay what they are."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from pi0_made_up import batch, observation, trainable

from xp.errors import UserError
from xp.models.families import load_policy
from xp.models.pi0.network.flow import delays
from xp.models.pi0.policy import Pi0Policy

HORIZON, MOST = 6, 3
KINDS = ("pi05", "pi0")


@pytest.fixture(scope="module", params=KINDS)
def policy(request):
    """One that was made for at most three given actions, its weights moved from the start."""
    made, rng = trainable(f"{request.param}_tiny", max_delay=MOST), np.random.default_rng(0)
    return made.policy(
        jax.tree.map(lambda w: w + np.float32(0.05) * rng.standard_normal(w.shape, np.float32), made.weights)
    )


def loss(policy, delay, *, changed=None, **given):
    """The loss with so many given actions and these draws; `changed` is added to the noise of the given ones."""
    rng = np.random.default_rng(5)
    noise, time = rng.standard_normal((3, HORIZON, 32)).astype(np.float32), rng.uniform(0.1, 1, 3).astype(np.float32)
    if changed is not None:
        noise[:, :delay] += changed
    inputs = {
        **policy.prepare({**batch(), "noise": noise, "time": time, **given}),
        "delay": np.full(3, delay, np.int32),
    }
    return float(policy.assembly.evaluate(policy._weights, inputs, jax.random.key(0))[0])


@pytest.mark.slow
def test_what_is_given_is_clean_and_costs_nothing(policy):
    plain = Pi0Policy(replace(policy.assembly, network=replace(policy.assembly.network, max_delay=0)), policy._weights)
    whole = loss(policy, 0)
    assert all(whole == pytest.approx(loss(plain, delay), rel=1e-5) for delay in (0, 2))
    assert loss(policy, 2) == pytest.approx(loss(policy, 2, changed=3.0), rel=1e-6)
    assert loss(policy, 2) != pytest.approx(whole, rel=1e-3)
    action = batch()["action"].copy()
    action[:, :2] += 0.5
    assert loss(policy, 2, action=action) != pytest.approx(loss(policy, 2), rel=2e-5)
    padded = np.zeros((3, HORIZON), bool)
    padded[:, :2] = True
    assert loss(policy, 2, action_is_pad=padded) == pytest.approx(loss(policy, 2), rel=1e-6)


@pytest.mark.slow
def test_a_chunk_begins_with_what_is_given_and_the_rest_depends_on_it(policy, tmp_path):
    policy.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved", device="cpu")
    plan = policy.predict(observation(2), seed=4)[:, :4]
    for asked in (policy, again):
        chunk = asked.predict(observation(2), seed=1, plan=plan, delay=2, num_steps=3)
        np.testing.assert_allclose(chunk[:, :2], plan[:, :2], atol=1e-5)
    other = policy.predict(observation(2), seed=1, plan=plan + 0.5, delay=2, num_steps=3)
    assert np.abs(other[:, 2:] - chunk[:, 2:]).max() > 1e-3
    free = policy.predict(observation(2), seed=1, num_steps=3)
    none = policy.predict(observation(2), seed=1, plan=plan, delay=0, num_steps=3)
    np.testing.assert_allclose(none, free, atol=1e-5)
    with pytest.raises(UserError, match="delay=4: the policy was trained with at most 3 given actions"):
        policy.predict(observation(2), plan=plan, delay=4)


def test_delays_are_drawn_alike_from_the_key_of_a_step():
    found = np.asarray(delays(jax.random.key(3), 4000, MOST))
    counts = np.bincount(found, minlength=MOST + 1)
    assert len(counts) == MOST + 1 and np.abs(counts - 1000).max() < 150
    np.testing.assert_array_equal(found, delays(jax.random.key(3), 4000, MOST))


def test_delays_that_leave_nothing_and_those_of_torch_are_refused():
    with pytest.raises(UserError, match="model.max_delay=6 and horizon.train=6"):
        trainable("pi05_tiny", max_delay=6)
    with pytest.raises(UserError, match="model.max_delay=2: given actions are learned in JAX"):
        trainable("pi05_torch_tiny", max_delay=2)
