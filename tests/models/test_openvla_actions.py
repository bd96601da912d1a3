"""Actions as tokens, bounds and chunks of an OpenVLA: the laws of the pure parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from openvla_made_up import NAMES, statistics
from scipy.spatial.transform import Rotation

from xp.errors import UserError
from xp.models.openvla.action_tokens import ActionTokens
from xp.models.openvla.bounds import Bounds, grippers, norm_stats
from xp.models.openvla.chunks import ChunkPlan, accumulated
from xp.models.openvla.sidecar import statistics_json

LLAMA = ActionTokens(32000)
normalised = arrays(np.float64, 7, elements=st.floats(-1, 1))
deltas = arrays(np.float32, (5, 7), elements=st.floats(-1, 1, width=32))


def test_the_ends_have_the_ids_of_the_original():
    assert LLAMA.encode(np.array([-1.0, 1.0])).tolist() == [31999, 31744]
    assert LLAMA.encode(np.array([-7.0, 7.0])).tolist() == [31999, 31744]


@given(normalised)
def test_ids_are_in_range_and_give_the_action_back_to_half_a_bin(actions):
    ids = LLAMA.encode(actions)
    assert set(ids.tolist()) <= set(LLAMA.ids)
    assert np.abs(LLAMA.decode(ids) - actions).max() <= 1 / 255 + 1e-12


@given(st.integers(0, 31999))
def test_every_id_means_an_action_and_one_of_an_action_is_its_own(number):
    action = LLAMA.decode(np.array([number]))
    assert np.all(np.abs(action) <= 1)
    if number in LLAMA.ids and number != 31744:  # the last two ids mean the last bin
        assert LLAMA.encode(action).tolist() == [number]


@given(arrays(np.float32, (3, 2), elements=st.floats(-4, 4, width=32)))
def test_bounds_give_back_what_lies_between_the_quantiles(values):
    bounds = Bounds(np.array([-2.0, 0.0]), np.array([3.0, 0.0]), np.array([True, True]), np.array([False, True]))
    there = bounds.normalize(values)
    assert np.all(np.abs(there) <= 1)
    assert not there[:, 1].any()  # it never changed
    expected = np.stack([np.clip(values[:, 0], -2, 3), np.zeros(3)], -1)
    assert np.abs(bounds.unnormalize(there) - expected).max() <= 1e-5


def test_statistics_of_a_dataset_become_those_of_the_original():
    own = statistics()
    entry = statistics_json(norm_stats(own, grippers(NAMES, own["action"])))
    assert list(entry) == ["action", "proprio", "num_transitions", "num_trajectories"]
    assert entry["action"]["mask"] == [True] * 6 + [False]  # the gripper is of 0..1 already
    assert list(entry["proprio"]) == ["mean", "std", "max", "min", "q01", "q99"]
    bounds = Bounds.of(entry["action"], "of toy: action")
    action = np.array([[0.3, -0.3, 0.25, 0, 0, 0.1, 1]], np.float32)
    given_back = bounds.unnormalize(LLAMA.decode(LLAMA.encode(bounds.normalize(action))))
    assert np.abs(given_back - action)[0, :6].max() <= 0.45 / 255 + 1e-6  # half a bin of what the quantiles span
    assert abs(given_back[0, 6] - 1) <= 1 / 255 + 1e-6
    assert given_back[0, 2] == np.float32(0.25)  # a constant is given back exactly


def test_a_dimension_with_equal_quantiles_that_changes_keeps_its_two_ends():
    own = statistics()
    action = {**own["action"], "p99": own["action"]["p99"].copy(), "p01": own["action"]["p01"].copy()}
    action["p99"][0] = action["p01"][0] = -0.5
    entry = norm_stats({**own, "action": action}, grippers((), action))
    bounds = Bounds.of(statistics_json(entry)["action"], "of toy: action")
    ends = np.zeros((2, 7), np.float32)
    ends[:, 0] = -0.5, 0.5
    assert np.abs(bounds.unnormalize(bounds.normalize(ends))[:, 0] - ends[:, 0]).max() <= 1e-6


def way(actions, unit=1.0):
    """Where a robot is after it executed actions: position, orientation, gripper."""
    turned = Rotation.identity()
    for action in actions.astype(np.float64):
        turned = Rotation.from_rotvec(unit * action[3:6]) * turned
    return actions[:, :3].astype(np.float64).sum(0), turned, actions[-1, 6]


@given(deltas, st.integers(1, 5), st.sampled_from([1.0, 0.5]))
def test_accumulated_actions_go_the_recorded_way(actions, real, unit):
    is_pad = np.arange(5) >= real
    plan = ChunkPlan(mode="accumulate", horizon=5, rotation_unit=unit)
    learned, pad = plan.learned(actions[None], is_pad[None])
    executed = plan.executed(learned)[0]
    assert executed.shape == (5, 7) and pad.shape == (1, 1)
    place, turned, gripper = way(executed, unit)
    wanted_place, wanted_turned, wanted_gripper = way(actions[:real], unit)
    assert np.abs(place - wanted_place).max() <= 1e-5
    assert (turned * wanted_turned.inv()).magnitude() <= 1e-4
    assert gripper == wanted_gripper
    assert np.abs(executed[:, :3]).max() <= np.abs(actions[:real, :3]).max() + 1e-6  # no step is clipped


def test_accumulating_composes_rotations_in_their_order():
    quarter = np.pi / 2
    actions = np.zeros((2, 7), np.float32)
    actions[0, 3], actions[1, 5] = quarter, quarter  # about x, then about the z that stays
    total = Rotation.from_rotvec(accumulated(actions, np.zeros(2, bool))[3:6])
    assert np.allclose(total.apply([0, 1, 0]), [0, 0, 1], atol=1e-6)
    assert np.allclose(total.apply([0, 0, 1]), [1, 0, 0], atol=1e-6)


@given(deltas)
def test_a_subsampled_action_is_the_first_and_moves_once(actions):
    plan = ChunkPlan(mode="subsample", horizon=5)
    learned, _ = plan.learned(actions[None], np.zeros((1, 5), bool))
    executed = plan.executed(learned)[0]
    assert np.array_equal(executed[0], actions[0])
    assert not executed[1:, :6].any() and np.all(executed[:, 6] == actions[0, 6])


@given(deltas)
def test_whole_chunks_are_executed_as_they_are_learned(actions):
    is_pad = np.arange(5) == 4
    for mode in ("autoregressive", "parallel"):
        plan = ChunkPlan(mode=mode, horizon=5)
        learned, pad = plan.learned(actions, is_pad)
        assert np.array_equal(plan.executed(learned), actions) and np.array_equal(pad, is_pad)
        assert (plan.tokens, plan.effective_hz(20)) == (35, 4.0)


@pytest.mark.parametrize(
    "given_, said",
    [
        ({"mode": "autoregresive"}, "did you mean 'autoregressive'"),
        ({"head": "l2"}, "model.head=l2: allowed are token, l1"),
        ({"head": "l1"}, "model.chunk_mode=parallel"),
        ({"mode": "accumulate", "action_dim": 4}, "needs actions of 7 numbers"),
        ({"mode": "subsample", "action_dim": 8}, "the dataset's have 8"),
    ],
)
def test_plans_that_do_not_fit_are_refused(given_, said):
    with pytest.raises(UserError, match=said):
        ChunkPlan(**given_)
