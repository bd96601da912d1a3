"""What a delay computes is the same in training, beside the other delays, and at inference, alone."""

import pytest
import torch
from smooth_made_up import ACTION_DIM, make_batch, make_policy

FORMS = [
    {},
    {"relative_actions": True},
    {"relative_actions": True, "relative_anchor": "last_prefix"},
    {"use_action_relative": True},
    {"pre_norm": True, "feedforward_activation": "gelu"},
    {"cameras": ("a", "b"), "environment": 0},
    {"state": 0},
    {"length_prefix_past": 0},
]


def ask(policy, batch, d):
    """The chunk after the first d committed actions of a training window, with its past."""
    start = policy.config.length_prefix_past
    return policy.continue_prefix(batch, batch["action"][:, start : start + d], batch["action"][:, :start])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "absolute")
def test_training_and_inference_agree_for_every_delay(form):
    policy = make_policy(**form)
    batch = make_batch(policy, size=3)
    start = policy.config.length_prefix_past
    for d in range(1, policy.config.length_prefix_future + 1):
        out = policy.predict_window(batch)["actions"][:, d - 1]
        last = form.get("relative_anchor") == "last_prefix"
        if form.get("relative_actions") or form.get("use_action_relative"):
            anchor = batch["action"][:, start + (d - 1 if last else 0)][:, None]
            out = policy._from_relative(out, anchor)
        chunk = ask(policy, batch, d)
        assert (chunk - out).abs().max() < 1e-6 * max(1, out.abs().max())


def test_without_the_mask_inference_is_another_function():
    policy = make_policy()
    batch = make_batch(policy)
    masked = ask(policy, batch, 2)
    policy.config.mask = "original"
    assert (ask(policy, batch, 2) - masked).abs().max() > 1e-3


def test_a_branch_sees_its_own_committed_actions_and_no_others():
    """Changing a_{t+2} changes the chunk after three committed actions, and leaves those after one and two alone."""
    policy = make_policy()
    batch = make_batch(policy)
    before = policy.predict_window(batch)["actions"]
    batch["action"][:, policy.config.length_prefix_past + 2] += 1
    after = policy.predict_window(batch)["actions"]
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-3


def test_values_in_padded_slots_do_not_matter():
    policy = make_policy()
    batch = make_batch(policy)
    batch["action_is_pad"][:, :1] = True
    before = policy(batch)[0]
    batch["action"][:, :1] = 1e6
    assert torch.equal(policy(batch)[0], before)


@pytest.mark.parametrize(("k", "d"), [(0, 1), (1, 2), (2, 3)])
def test_each_sample_may_have_its_own_delay(k, d):
    policy = make_policy(relative_actions=True, relative_anchor="last_prefix")
    batch = make_batch(policy, size=2)
    start = policy.config.length_prefix_past
    future, past = batch["action"][:, start : start + 3], batch["action"][:, start - k : start]
    short = policy.build_inference_action_prefix(future[:, :d], past)
    long = policy.build_inference_action_prefix(future, past)
    names = ("inference_action", "inference_action_is_pad")
    mixed = {name: torch.stack([a[0], b[1]]) for name, a, b in zip(names, short, long)}
    chunk = policy.predict_action_chunk(batch | mixed)
    assert torch.allclose(chunk[0], policy.continue_prefix(batch, future[:, :d], past)[0], atol=1e-6)
    assert torch.allclose(chunk[1], policy.continue_prefix(batch, future, past)[1], atol=1e-6)


def test_the_first_predicted_action_continues_the_last_committed_one():
    """With anchor last_prefix, chunk[0] - a_{t+d-1} is the predicted increment, wherever the prefix lies."""
    policy = make_policy(relative_actions=True, relative_anchor="last_prefix")
    batch = make_batch(policy)
    start = policy.config.length_prefix_past
    for d in (1, 2, 3):
        future, past = batch["action"][:, start : start + d], batch["action"][:, :start]
        jump = policy.continue_prefix(batch, future, past)[:, 0] - future[:, -1]
        moved = policy.continue_prefix(batch, future + 7.5, past + 7.5)[:, 0] - (future[:, -1] + 7.5)
        assert torch.allclose(jump, moved, atol=1e-5)
        with torch.no_grad():
            policy.model.action_head.weight.zero_(), policy.model.action_head.bias.zero_()
        still = policy.continue_prefix(batch, future, past)[:, 0] - future[:, -1]
        assert torch.allclose(still, policy.action_delta_mean.expand(len(still), ACTION_DIM), atol=1e-6)
        policy = make_policy(relative_actions=True, relative_anchor="last_prefix")


def test_cameras_of_one_size_go_through_the_backbone_together():
    policy = make_policy(cameras=("a", "b"), environment=0)
    calls = []
    policy.model.backbone.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    policy.predict_window(make_batch(policy, size=3))
    assert calls == [(6, 3, 32, 32)]


def test_padded_actions_do_not_count_in_the_loss():
    policy = make_policy()
    batch = make_batch(policy)
    batch["action_is_pad"][:, -4:] = True
    expected = policy(batch)[0]
    batch["action"][:, -4:] += 100
    assert torch.equal(policy(batch)[0], expected)
    policy.config.loss_reduction = "all"
    assert policy(batch)[0] < expected


def test_the_vae_is_part_of_the_objective_in_evaluation_too():
    policy = make_policy(use_vae=True)
    batch = make_batch(policy)
    loss, parts = policy(batch)
    assert loss.item() == pytest.approx(parts["l1_loss"] + 10 * parts["kld_loss"], rel=1e-5)
    assert policy(batch)[0] == loss
    policy.train()
    assert policy(batch)[0] != loss


class TestObservationDropout:
    def test_marked_samples_lose_their_state_in_training_only(self):
        policy = make_policy()
        batch = make_batch(policy)
        marked = batch | {"observation_is_dropped": torch.tensor([True, False])}
        plain = policy.predict_window(batch)["actions"]
        assert torch.equal(policy.predict_window(marked)["actions"], plain)
        policy.train()
        hidden = policy.predict_window(marked)["actions"]
        assert (hidden[0] - plain[0]).abs().max() > 1e-3
        assert torch.allclose(hidden[1], plain[1], atol=1e-6)
        zero = batch | {"observation.state": torch.zeros(2, ACTION_DIM)}
        assert torch.allclose(policy.predict_window(zero)["actions"][0], hidden[0], atol=1e-6)

    def test_the_learned_token_stands_for_a_hidden_state_and_learns(self):
        policy = make_policy(obs_dropout_token=True).train()
        batch = make_batch(policy)
        policy(batch | {"observation_is_dropped": torch.tensor([False, False])})[0].backward()
        assert policy.model.state_dropped_embed.grad.abs().max() == 0
        policy(batch | {"observation_is_dropped": torch.tensor([True, False])})[0].backward()
        assert policy.model.state_dropped_embed.grad.abs().max() > 0

    def test_the_rate_is_met_per_sample(self):
        policy = make_policy(obs_dropout_rate=0.3).train()
        torch.manual_seed(0)
        _, dropped = policy._drop_state({"observation.state": torch.ones(4000, ACTION_DIM)})
        assert abs(dropped.float().mean() - 0.3) < 0.03
