"""Validation metrics and what action dimensions mean."""

import math

import numpy as np
import pytest

from xp.models.policy import Policy, PolicySpec
from xp.training.action_layout import ActionLayout
from xp.training.validation import METRICS, action_scores, future, make_validator

SO100 = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]
LIBERO = ["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper"]


def test_joint_targets_are_positions_measured_from_the_state():
    layout = ActionLayout.from_names(SO100, 6, SO100)
    assert layout == ActionLayout((0, 1, 2, 3, 4), (), (5,), (0, 1, 2, 3, 4))


def test_joint_targets_find_their_state_by_name():
    layout = ActionLayout.from_names(["a", "b", "gripper"], 3, ["gripper", "b", "extra", "a"])
    assert layout.state_dims == (3, 1)


def test_joints_without_a_state_of_the_same_names_are_relative():
    assert ActionLayout.from_names(SO100, 6, ["q0", "q1"]).state_dims is None


@pytest.mark.parametrize(
    "names",
    [
        LIBERO,
        ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"],
        ["eef.pos_x", "eef.pos_y", "eef.pos_z", "eef.rx", "eef.ry", "eef.rz", "eef.gripper_finger"],
        ["delta_x", "delta_y", "delta_z", "roll", "pitch", "yaw", "left_jaw"],
        ["move.x", "move.y", "move.z", "turn.x", "turn.y", "turn.z", "gripper"],
        ["hand.dx", "hand.dy", "hand.dz", "hand.drx", "hand.dry", "hand.drz", "gripper.pos"],
    ],
)
def test_cartesian_names_give_position_rotation_and_gripper(names):
    assert ActionLayout.from_names(names, 7, names) == ActionLayout((0, 1, 2), (3, 4, 5), (6,), None)


@pytest.mark.parametrize("names", [None, [], ["a", "b"]])
def test_without_a_name_for_each_dimension_nothing_is_assumed(names):
    assert ActionLayout.from_names(names, 3) == ActionLayout((0, 1, 2), (), (), None)


def test_two_arms_have_two_grippers():
    names = ["left_elbow", "left_gripper", "right_elbow", "right_gripper"]
    assert ActionLayout.from_names(names, 4).grippers == (1, 3)


def statistics(A, low=0.0, high=1.0, std=1.0):
    return {
        "mean": np.zeros(A), "std": np.full(A, std), "min": np.full(A, low), "max": np.full(A, high),
        "mask": np.ones(A, bool),
    }  # fmt: skip


def scores(predictions, truth, layout, valid=None, present=None, **stats):
    predictions, truth = np.asarray(predictions, float), np.asarray(truth, float)
    valid = np.ones(truth.shape[:2], bool) if valid is None else np.asarray(valid)
    present = np.zeros((len(truth), len(layout.position))) if present is None else np.asarray(present, float)
    stats = statistics(truth.shape[-1], **stats)
    return action_scores(predictions, truth, valid, present, layout=layout, statistics=stats)


CARTESIAN = ActionLayout((0,), (1,), (2,))


def test_each_metric_looks_at_its_own_dimensions():
    found = scores([[[0.5, 0.2, 0.9]]], [[[0.1, 0.1, 0.2]]], CARTESIAN)
    assert found["position_l1"] == pytest.approx(0.4)
    assert found["rotation_l1"] == pytest.approx(0.1)
    assert found["l1_error"] == pytest.approx((0.4 + 0.1 + 0.7) / 3)
    assert found["gripper_accuracy"] == 0.0
    assert found["direction_accuracy"] == 1.0


def test_padded_steps_never_count():
    truth = [[[0.1, 0.1, 0.2], [9.0, 9.0, 9.0]]]
    found = scores([[[0.1, 0.1, 0.2], [np.nan, -9.0, -9.0]]], truth, CARTESIAN, valid=[[True, False]])
    assert found["l1_error"] == found["position_l1"] == found["rotation_l1"] == 0.0
    assert found["gripper_accuracy"] == found["direction_accuracy"] == 1.0


def test_small_movements_in_normalised_units_have_no_direction():
    layout = ActionLayout((0,))
    assert math.isnan(scores([[[1.0]]], [[[0.19]]], layout, std=10.0)["direction_accuracy"])
    assert scores([[[1.0]]], [[[0.21]]], layout, std=10.0)["direction_accuracy"] == 1.0


def test_the_direction_of_a_joint_target_is_away_from_the_present_state():
    layout = ActionLayout((0,), state_dims=(0,))
    ahead = scores([[[0.9]]], [[[0.8]]], layout, present=[[0.5]])
    behind = scores([[[0.4]]], [[[0.8]]], layout, present=[[0.5]])
    assert (ahead["direction_accuracy"], behind["direction_accuracy"]) == (1.0, 0.0)


def test_the_gripper_threshold_is_the_middle_of_its_training_range():
    layout = ActionLayout((), (), (0,))
    assert scores([[[9.0]]], [[[1.0]]], layout, low=0.0, high=20.0)["gripper_accuracy"] == 1.0
    assert scores([[[11.0]]], [[[1.0]]], layout, low=0.0, high=20.0)["gripper_accuracy"] == 0.0


def test_what_an_action_does_not_have_is_nan():
    found = scores([[[0.1]]], [[[0.1]]], ActionLayout((0,)))
    assert math.isnan(found["rotation_l1"]) and math.isnan(found["gripper_accuracy"])


class Constant(Policy):
    """Predicts its value everywhere; its loss on a batch is the mean of the true actions."""

    spec = PolicySpec(horizon=2, action_dim=1, state_dim=1, cameras={}, history=3)

    def __init__(self, value):
        self.value, self.seeds = value, []

    def predict(self, observation, *, seed=0):
        self.seeds.append(seed)
        return np.full((len(observation["action"]), 2, 1), self.value, np.float32)

    def loss(self, batch, *, seed=0):
        truth, valid = future(batch, 2, 2)
        return {"loss": float(truth[valid].mean())}


def windows(values, pads, history=3):
    """A batch of windows with one action dimension whose two future actions are `values` [B, 2]."""
    values, pads = np.asarray(values, np.float32), np.asarray(pads, bool)
    size, past = len(values), history - 1
    return {
        "action": np.concatenate([np.full((size, past), 99.0, np.float32), values], axis=1)[..., None],
        "action_is_pad": np.concatenate([np.zeros((size, past), bool), pads], axis=1),
        "observation_is_pad": np.zeros((size, history), bool),
        "observation.state": np.zeros((size, history, 1), np.float32),
    }


def test_a_validation_pools_valid_steps_over_batches_of_any_size():
    batches = [windows([[1, 1], [1, 1]], [[0, 0], [0, 0]]), windows([[4, 50]], [[0, 1]])]
    validate = make_validator(lambda: batches, layout=ActionLayout((0,)), statistics={"action": statistics(1)}, seed=10)
    policy = Constant(1.0)
    found = validate(policy, 0)
    assert tuple(found) == METRICS
    assert found["val_loss"] == pytest.approx((4 * 1.0 + 1 * 4.0) / 5)
    assert found["l1_error"] == pytest.approx(3.0 / 5)
    assert validate(policy, 100) == pytest.approx(found, nan_ok=True)
    assert policy.seeds == [10, 11, 10, 11]


def test_a_validation_without_windows_is_nan():
    validate = make_validator(lambda: [], layout=ActionLayout((0,)), statistics={"action": statistics(1)})
    assert all(math.isnan(value) for value in validate(Constant(0.0), 0).values())


def test_the_future_begins_at_the_last_observed_step():
    truth, valid = future(windows([[5, 6]], [[0, 1]], history=4), 2, 3)
    assert truth.tolist() == [[[5.0], [6.0]]] and valid.tolist() == [[True, False]]


class Prefixed(Policy):
    """Takes past and committed actions; repeats the last committed one and notes what it was told."""

    spec = PolicySpec(
        horizon=3, action_dim=1, state_dim=1, cameras={}, prefix_past=2, prefix_future=2, actions_before=2,
        actions_ahead=5,
    )  # fmt: skip

    def __init__(self):
        self.told = []

    def predict(self, observation, *, seed=0, prefix, past=None):
        rows = observation["frame_index"].tolist()
        self.told += [(row, prefix[i, :, 0].tolist(), None if past is None else past[i, :, 0].tolist())
                      for i, row in enumerate(rows)]  # fmt: skip
        return np.repeat(prefix[:, -1:], 3, axis=1)

    def loss(self, batch, *, seed=0):
        return {"loss": 1.0}


def test_a_policy_with_a_prefix_is_told_the_demonstration_and_judged_behind_it():
    frames = np.arange(4)
    steps = frames[:, None] + np.arange(-2, 5)
    batch = {
        "action": (np.clip(steps, 0, 6) ** 2).astype(np.float32)[..., None],
        "action_is_pad": (steps < 0) | (steps > 6),
        "observation.state": np.zeros((4, 1, 1), np.float32),
        "frame_index": frames,
        "task": ["go"] * 4,
    }
    policy = Prefixed()
    validate = make_validator(lambda: [batch], layout=ActionLayout((0,)), statistics={"action": statistics(1)})
    found = validate(policy, 0)
    # Frames 0 and 1 lack part of the past, which is then not made up.
    assert sorted(policy.told) == [(0, [0], None), (1, [1], None), (2, [4], [0, 1]), (3, [9], [1, 4])]
    errors = [[1, 4, 9], [3, 8, 15], [5, 12, 21], [7, 16, 27]]
    assert found["l1_error"] == pytest.approx(np.mean(errors))
