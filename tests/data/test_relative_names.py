"""Relative actions go by names where both sides have them."""

import dataclasses

import numpy as np
import pytest
from data_made_up import made_up

from xp.data.relative import excluded_dimensions
from xp.data.statistics import delta_statistics
from xp.errors import UserError


def named(action, state):
    dataset = made_up([6], action_dim=len(action), state_dim=len(state))
    info = dataclasses.replace(dataset.info, action_names=tuple(action), state_names=tuple(state))
    info.__dict__["tasks"] = dataset.tasks
    return dataclasses.replace(dataset, info=info)


def deltas(dataset, exclude=()):
    return delta_statistics(dataset, [0], [(0, 1)], "observation.state", exclude)


@pytest.mark.parametrize(
    ("action", "state"),
    [("ab", "ab"), ("ab", "abc"), (["action_0", "action_1"], ["state_1", "state_0"]), (["a", "b"], ["a.pos", "b.pos"])],
)
def test_a_state_in_the_order_of_the_actions_is_subtracted(action, state):
    assert deltas(named(action, state))["mean"].shape == (2,)


@pytest.mark.parametrize(
    ("action", "state", "said"),
    [("ab", "ba", "'a' is dimension 1"), ("xg", "xyg", "'g' is dimension 2"), ("abc", "ab", "subtracted from c")],
)
def test_a_state_in_another_order_is_refused_by_name(action, state, said):
    with pytest.raises(UserError, match=said) as caught:
        deltas(named(action, state))
    assert "action_space.exclude=[" in str(caught.value)


def test_what_is_excluded_may_stand_anywhere():
    found = deltas(named("xg", "xyg"), exclude=[1])
    assert np.isfinite(found["mean"]).all()


def test_excluding_goes_by_parts_of_names_in_any_case_as_lerobot_does():
    from lerobot.processor.relative_action_processor import RelativeActionsProcessorStep

    names, patterns = ["left_arm", "left_Gripper", "right_arm", "right_gripper"], ["GRIPPER", "left_a"]
    step = RelativeActionsProcessorStep(enabled=True, exclude_joints=patterns, action_names=names)
    assert excluded_dimensions(patterns, names) == [i for i, relative in enumerate(step._build_mask(4)) if not relative]


@pytest.mark.parametrize("pattern", ["griper", ""])
def test_a_pattern_that_is_in_no_name_is_refused(pattern):
    with pytest.raises(UserError, match="action_space.exclude names .*arm, gripper"):
        excluded_dimensions([pattern], ["arm", "gripper"])
