"""Real-time chunking: LeRobot's own guidance computes the same, both frameworks answer alike, and plans are kept to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from pi0_made_up import observation, trainable

from xp.errors import UserError
from xp.models.families import load_policy
from xp.models.pi0.convert import TORCH, convert, open_source
from xp.models.pi0.network.guidance import guided_velocity
from xp.models.pi0.real_time import Plan, soft_mask
from xp.models.pi0_torch.guidance import Guide

ROWS, HORIZON, WIDTH, STEPS = 2, 8, 3, 6
LEROBOT = RTCProcessor(
    RTCConfig(prefix_attention_schedule=RTCAttentionSchedule.EXP, max_guidance_weight=5.0, execution_horizon=HORIZON)
)


@given(st.integers(1, 60), st.data())
def test_the_mask_is_lerobots_exponential_schedule(horizon, data):
    left = data.draw(st.integers(1, horizon))
    delay = data.draw(st.integers(0, left))
    mask = soft_mask(delay, left, horizon)
    np.testing.assert_allclose(mask, LEROBOT.get_prefix_weights(delay, left, horizon), atol=1e-6)
    assert (mask[:delay] == 1).all() and (mask[left:] == 0).all() and (np.diff(mask) <= 0).all()


def drawn():
    rng = np.random.default_rng(0)
    noise, plan = rng.standard_normal((2, ROWS, HORIZON, WIDTH)).astype(np.float32)
    return noise, plan, rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(("delay", "left"), [(2, 5), (0, 3), (4, 4), (3, 8)])
def test_sampling_is_lerobots_where_that_sees_how_the_velocity_changes(delay, left):
    noise, plan, matrix = drawn()
    mask = soft_mask(delay, left, HORIZON)

    def velocity(x, time):
        return torch.tanh(x @ torch.from_numpy(matrix)) * (1 + time[:, None, None]) + x.mean(1, keepdim=True)

    theirs = euler_integrate(
        lambda x, time: velocity(x.requires_grad_(), time),  # what LeRobot asks for only after the velocity is there
        torch.from_numpy(noise),
        STEPS,
        rtc_processor=LEROBOT,
        rtc_enabled=True,
        inference_delay=delay,
        prev_chunk_left_over=torch.from_numpy(plan[:, :left]),
        execution_horizon=left,
    )
    rows = torch.from_numpy(np.tile(mask, (ROWS, 1)))
    guide = Guide(torch.from_numpy(plan), rows, torch.full((ROWS,), 5.0))
    with torch.no_grad():
        ours = euler_integrate(velocity, torch.from_numpy(noise), STEPS, rtc_processor=guide, rtc_enabled=True)
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), atol=1e-5)

    x = jnp.asarray(noise)
    for step in range(STEPS):
        time = jnp.float32(1 - step / STEPS)

        def of_jax(x, time=time):
            return jnp.tanh(x @ matrix) * (1 + time) + x.mean(1, keepdims=True)

        bound = jnp.asarray(plan), jnp.tile(mask, (ROWS, 1)), jnp.full(ROWS, 5.0)
        x = x - guided_velocity(of_jax, x, time, *bound) / STEPS
    np.testing.assert_allclose(np.asarray(x), ours.numpy(), atol=1e-5)


def test_lerobots_own_leaves_out_how_the_velocity_changes():
    """For a velocity c x the expected actions are (1 - c t) x: the paper's correction is that much of LeRobot's."""
    noise, plan, _ = (torch.from_numpy(array) for array in drawn())
    rate, time, mask = 0.5, 0.6, torch.ones(ROWS, HORIZON)
    ours = Guide(plan, mask, torch.full((ROWS,), 5.0)).denoise_step(noise, time, lambda x: rate * x) - rate * noise
    theirs = LEROBOT.denoise_step(noise, plan, HORIZON, time, lambda x: rate * x, HORIZON) - rate * noise
    np.testing.assert_allclose(ours.numpy(), (1 - rate * time) * theirs.numpy(), atol=1e-6)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A policy in JAX whose weights were moved from the start, and the same in torch."""
    place, made, rng = tmp_path_factory.mktemp("real_time"), trainable("pi05_tiny"), np.random.default_rng(0)
    first = made.policy(
        jax.tree.map(lambda w: w + np.float32(0.05) * rng.standard_normal(w.shape, np.float32), made.weights)
    )
    first.save(place / "jax")
    convert(open_source(place / "jax", None, {}), TORCH, place / "torch")
    return first, load_policy(place / "torch", device="cpu")


@pytest.mark.slow
def test_both_frameworks_keep_to_the_plan_alike(pair):
    seen = observation(2)
    free = pair[0].predict(seen, seed=1)
    plan = pair[0].predict(seen, seed=2)[:, :4]
    noise = np.random.default_rng(3).standard_normal((2, 6, 32)).astype(np.float32)
    asked = {"plan": plan, "delay": 2, "num_steps": 5, "noise": noise}
    one, other = (policy.predict(seen, **asked) for policy in pair)
    np.testing.assert_allclose(other, one, atol=2e-3)
    loose = pair[0].predict(seen, noise=noise, num_steps=5)
    scale = np.abs(free - plan.mean()).mean()
    kept, apart = (np.abs(chunk[:, :2] - plan[:, :2]).mean() / scale for chunk in (one, loose))
    assert kept < 0.5 * apart
    assert all(policy.spec.takes_plan for policy in pair)
    with pytest.raises(UserError, match=r"plan has shape \[2, 7, 4\]; the policy wants \[2, m, 4\] with at most 6"):
        pair[1].predict(seen, plan=np.zeros((2, 7, 4)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delay": 2}, "delay=2 without plan"),
        ({"guidance": 2.0}, "guidance=2.0 without plan"),
        ({"plan": np.zeros((4, 3))}, "plan has shape"),
        ({"plan": np.zeros((1, 4, 3)), "delay": 5}, "delay=5: expected a whole number from 0 to 4"),
        ({"plan": np.zeros((1, 4, 3)), "guidance": 0}, "guidance=0: expected a number above 0"),
    ],
)
def test_what_says_no_plan_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        Plan.from_given(options)
