"""Claims about the arm's closed-form kinematics, against itself and against MuJoCo's model of the same numbers."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xp.envs.arm import arm
from xp.envs.arm.scene import build_model
from xp.envs.mujoco_import import mujoco


@given(
    st.floats(0.09, 0.23),
    st.floats(-1.5, 1.5),
    st.floats(0.01, 0.12),
    st.floats(-2.0, 2.0),
)
def test_inverse_then_forward_gives_the_point_back(radius, bearing, height, roll):
    tip = np.array([radius * np.cos(bearing), radius * np.sin(bearing), height])
    joints = _reach(tip, roll=roll)
    back, pitch = arm.forward(joints)
    np.testing.assert_allclose(back, tip, atol=1e-9)
    assert pitch == pytest.approx(arm.DOWN)
    assert joints[4] == roll


@settings(max_examples=30)
@given(st.floats(0.10, 0.22), st.floats(-1.4, 1.4), st.floats(0.02, 0.1), st.floats(2.2, np.pi))
def test_the_simulated_hand_is_where_the_formula_says(radius, bearing, height, pitch):
    tip = np.array([radius * np.cos(bearing), radius * np.sin(bearing), height])
    joints = _reach(tip, pitch=pitch)
    data = mujoco.MjData(MODEL)
    data.qpos[:5] = joints
    mujoco.mj_forward(MODEL, data)
    hand = MODEL.body("hand").id
    along = data.xmat[hand].reshape(3, 3)[:, 2]
    wrist = data.xpos[MODEL.body("wrist").id]
    np.testing.assert_allclose(wrist + arm.HAND * along, tip, atol=1e-9)
    assert along[2] == pytest.approx(np.cos(pitch), abs=1e-9)


@given(st.floats(-np.pi, np.pi), st.floats(-1.2, 1.2))
def test_roll_turns_the_fingers_to_the_asked_yaw_up_to_the_symmetry(yaw, pan):
    for turns in (np.pi / 2, np.pi):
        roll = arm.roll_for(yaw, pan, turns=turns)
        assert abs(roll) <= turns / 2 + 1e-9
        left = (pan + np.pi / 2 - roll - yaw) / turns
        assert left == pytest.approx(round(left), abs=1e-9)


def test_the_simulated_fingers_open_along_the_yaw_that_roll_for_promises():
    data = mujoco.MjData(MODEL)
    for yaw, bearing in ((0.3, 0.5), (-0.7, -0.9), (1.2, 0.1)):
        tip = 0.17 * np.array([np.cos(bearing), np.sin(bearing), 0.2])
        data.qpos[:5] = arm.inverse(tip, roll=arm.roll_for(yaw, bearing, turns=np.pi))
        data.qpos[5:7] = 0.02
        mujoco.mj_forward(MODEL, data)
        axis = data.xpos[MODEL.body("left").id] - data.xpos[MODEL.body("right").id]
        turned = np.arctan2(axis[1], axis[0]) - yaw
        assert np.sin(turned) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("tip", [(0.40, 0.0, 0.05), (0.0, 0.0, 0.6), (0.245, 0.0, 0.10)])
def test_a_point_out_of_reach_is_refused(tip):
    with pytest.raises(arm.UnreachableError):
        arm.inverse(np.array(tip))


def test_the_rest_pose_points_the_hand_down_before_the_arm():
    tip, pitch = arm.forward(arm.HOME)
    assert pitch == pytest.approx(arm.DOWN, abs=0.01)
    np.testing.assert_allclose(tip, [0.13, 0.0, 0.12], atol=0.005)
    assert np.all(arm.HOME >= arm.LOW) and np.all(arm.HOME <= arm.HIGH)


def _reach(tip, **options):
    try:
        return arm.inverse(tip, **options)
    except arm.UnreachableError:
        assume(False)
        raise


MODEL = build_model(1 / 300)
