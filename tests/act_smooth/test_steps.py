"""Processor steps: with any LeRobot policy, saved and loaded, in training only where that is meant."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import make_pre_post_processors
from smooth_made_up import delta_stats, features

from lerobot_policy_act_smooth_xp.pipelines import add_observation_dropout, add_relative_actions
from lerobot_policy_act_smooth_xp.steps import (
    ANCHOR_KEY,
    ObservationDropoutStep,
    RelativeToAnchorStep,
    dropped_samples,
)
from xp.data.batches import Batches
from xp.data.windows import Windows

ACTIONS = torch.arange(24.0).reshape(2, 4, 3)
STATE = torch.tensor([[1.0, 2, 3], [4, 5, 6]])


def processors(pretrained_path=None):
    """The processors of a plain ACT on the features of the tests."""
    inputs = features()
    config = ACTConfig(
        input_features=inputs, output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
        chunk_size=4, n_action_steps=4, device="cpu",
    )  # fmt: skip
    return make_pre_post_processors(config, pretrained_path, dataset_stats=delta_stats())


def batch(actions=ACTIONS):
    return {"observation.state": STATE, "observation.environment_state": torch.zeros(2, 4)} | (
        {}
        if actions is None
        else {"action": actions, "action_is_pad": torch.zeros(actions.shape[:2], dtype=torch.bool)}
    )


def saved_and_loaded(pre, post, folder):
    pre.save_pretrained(folder)
    post.save_pretrained(folder)
    return processors(folder)


class TestObservationDropout:
    def test_the_draws_are_those_of_xps_batches(self):
        class MadeUpWindows(Windows):
            look_ahead = 0

            def __init__(self):
                pass

            def __len__(self):
                return 1000

            def batch(self, indices):
                return {}

        batches = Batches(MadeUpWindows(), batch_size=64, seed=7, drop_rate=0.3)
        for step in (0, 5):
            expected = batches.at(step)["observation_is_dropped"]
            assert np.array_equal(dropped_samples(7, step, 64, 0.3), expected)

    def test_whole_samples_are_hidden_behind_the_normaliser(self):
        pre, _ = processors()
        add_observation_dropout(pre, rate=0.5, seed=1)
        plain = processors()[0](batch())
        for step in range(3):
            dropped = dropped_samples(1, step, 2, 0.5)
            out = pre(batch())
            assert torch.equal(out["observation.state"][dropped], torch.zeros(dropped.sum(), 3))
            assert torch.equal(out["observation.state"][~dropped], plain["observation.state"][~dropped])
            assert torch.equal(out["action"], plain["action"])

    def test_samples_marked_in_the_batch_are_hidden(self):
        pre, _ = processors()
        add_observation_dropout(pre, rate=0.0)
        out = pre(batch() | {"observation.is_dropped": torch.tensor([False, True])})
        assert "observation.is_dropped" not in out
        assert out["observation.state"].abs().sum(1).bool().tolist() == [True, False]

    def test_nothing_is_hidden_outside_training(self):
        pre, _ = processors()
        add_observation_dropout(pre, rate=1.0)
        assert pre(batch(actions=None))["observation.state"].any()
        with torch.no_grad():
            assert pre(batch())["observation.state"].any()
        assert not pre(batch())["observation.state"].any()

    def test_saved_and_loaded_it_goes_on_with_the_same_draws(self, tmp_path):
        pre, post = processors()
        add_observation_dropout(pre, rate=0.5, seed=3)
        for _ in range(4):
            pre(batch())
        again, _ = saved_and_loaded(pre, post, tmp_path)
        for _ in range(6):
            assert torch.equal(pre(batch())["observation.state"], again(batch())["observation.state"])

    @pytest.mark.parametrize("rate", [-0.1, 1.5])
    def test_a_rate_that_is_no_probability_is_an_error(self, rate):
        with pytest.raises(ValueError, match="not a probability"):
            ObservationDropoutStep(rate=rate)


class TestRelativeActions:
    @settings(max_examples=25, deadline=None)
    @given(st.sampled_from(["observation.state", "a_t0"]), st.integers(0, 99))
    def test_relative_and_absolute_again_is_the_identity(self, anchor, seed):
        pre, post = processors()
        add_relative_actions(pre, post, deltas=delta_stats()["action_delta"], anchor=anchor)
        actions = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed)) * 10
        model = pre(batch(actions))["action"]
        assert torch.allclose(post(model), actions, atol=1e-4)

    def test_the_model_sees_differences_in_units_of_their_spread(self):
        pre, post = processors()
        stats = delta_stats()["action_delta"]
        add_relative_actions(pre, post, deltas=stats)
        expected = (ACTIONS - STATE[:, None] - torch.tensor(stats["mean"])) / torch.tensor(stats["std"])
        assert torch.allclose(pre(batch())["action"], expected.float(), rtol=1e-5)

    def test_saved_and_loaded_by_lerobots_factory_the_two_steps_find_each_other(self, tmp_path):
        pre, post = processors()
        add_relative_actions(pre, post, deltas=delta_stats()["action_delta"])
        again = saved_and_loaded(pre, post, tmp_path)
        # The factory overrides nothing when it loads: statistics of differences travel with the steps.
        assert torch.equal(pre(batch())["action"], again[0](batch())["action"])
        zero = torch.zeros(2, 4, 3)
        pre(batch(actions=None)), again[0](batch(actions=None))
        assert torch.equal(post(zero), again[1](zero))
        assert torch.allclose(again[1](zero), (STATE + 0.3)[:, None].expand(2, 4, 3), atol=1e-5)

    def test_last_prefix_takes_the_action_before_the_observed_step_and_drops_it(self):
        pre, post = processors()
        add_relative_actions(
            pre, post, deltas={"mean": np.zeros(3), "std": np.ones(3)}, anchor="last_prefix", index_t0=1, drop_past=True
        )
        out = pre(batch())
        assert torch.allclose(out["action"], ACTIONS[:, 1:] - ACTIONS[:, :1])
        assert out["action_is_pad"].shape == (2, 3)

    def test_last_prefix_goes_on_from_what_was_given_out(self):
        pre, post = processors()
        add_relative_actions(
            pre, post, deltas={"mean": np.zeros(3), "std": np.ones(3)}, anchor="last_prefix", index_t0=1, drop_past=True
        )
        one = torch.ones(2, 3)
        position = STATE
        for _ in range(3):
            pre(batch(actions=None))
            out = post(one)
            assert torch.allclose(out, position + 1)
            position = out
        pre(batch(actions=None) | {ANCHOR_KEY: torch.zeros(2, 3)})
        assert torch.allclose(post(one), one)

    def test_a_policy_that_plans_ahead_keeps_the_anchor_of_its_plan(self):
        pre, post = processors()
        add_relative_actions(pre, post, deltas={"mean": np.zeros(3), "std": np.ones(3)}, n_action_steps=2)
        out = []
        for i in range(4):
            pre(batch(actions=None) | {"observation.state": STATE + i})
            out.append(post(torch.zeros(2, 3)))
        assert [torch.equal(a, STATE + i) for a, i in zip(out, (0, 0, 2, 2))] == [True] * 4

    def test_named_joints_stay_absolute(self):
        step = RelativeToAnchorStep(exclude_joints=["gripper"], action_names=["x", "y", "gripper"])
        assert step._build_mask(3) == [True, True, False]
        pre, post = processors()
        add_relative_actions(
            pre, post, deltas={"mean": np.zeros(3), "std": np.ones(3)}, exclude_joints=["gripper"],
            action_names=["x", "y", "gripper"],
        )  # fmt: skip
        assert torch.allclose(pre(batch())["action"][..., 2], ACTIONS[..., 2])

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"anchor": "a_0"}, "Allowed: observation.state, a_t0, last_prefix"),
            ({"anchor": "last_prefix"}, "index_t0=1"),
            ({"n_action_steps": 0}, "1 or more"),
        ],
    )
    def test_settings_that_cannot_be_are_errors(self, given, text):
        with pytest.raises(ValueError, match=text):
            RelativeToAnchorStep(**given)

    def test_statistics_without_differences_are_an_error(self):
        with pytest.raises(ValueError, match="delta_statistics"):
            add_relative_actions(*processors(), deltas={"min": np.zeros(3)})

    def test_a_state_with_fewer_dimensions_than_the_actions_is_an_error(self):
        pre, post = processors()
        add_relative_actions(pre, post, deltas=delta_stats()["action_delta"])
        with pytest.raises(ValueError, match="has 2 dimensions, the actions 3"):
            pre(batch() | {"observation.state": STATE[:, :2]})

    def test_an_unknown_a_t0_is_an_error_at_inference(self):
        pre, post = processors()
        add_relative_actions(pre, post, deltas=delta_stats()["action_delta"], anchor="a_t0")
        with pytest.raises(ValueError, match=ANCHOR_KEY):
            pre(batch(actions=None))
