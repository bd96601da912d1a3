"""What `predict` may be asked with: axes are told by rank, what is not read is not asked for, errors give shapes."""

import numpy as np
import octo_made_up
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_made_up import ACT, batch_for, made, use_narrow_backbone

from xp.errors import UserError
from xp.models import build
from xp.models.observation import as_windows
from xp.models.policy import PolicySpec

SPEC = PolicySpec(horizon=4, action_dim=3, state_dim=5, cameras={"top": (8, 9, 3)}, history=2)


@pytest.fixture(scope="module")
def act():
    with pytest.MonkeyPatch.context() as patch:
        use_narrow_backbone(patch)
        return made({**ACT, "vision_backbone": "resnet_narrow"}).policy(None)


@pytest.fixture(scope="module")
def octo():
    trainable = build(
        octo_made_up.model_cfg(), data=octo_made_up.DATA, statistics=octo_made_up.STATISTICS, horizon=2, seed=0
    )
    return trainable.policy(trainable.weights)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 7), steps=st.integers(1, 5), history=st.integers(1, 3), text=st.booleans())
def test_axes_are_told_by_rank_alone(rows, steps, history, text):
    rng = np.random.default_rng(rows)
    spec = PolicySpec(horizon=4, action_dim=3, state_dim=3, cameras={"top": (8, 9, 3)}, history=history)
    pictures, states = rng.integers(0, 256, (rows, steps, 3, 3, 3), np.uint8), rng.normal(size=(rows, steps, 3))
    task = "lift" if text else ["lift"] * rows
    whole = {"observation.images.top": pictures, "observation.state": states, "task": task, "other": 7}
    found = as_windows(whole, spec)
    assert np.array_equal(found["observation.images.top"], pictures)
    assert np.array_equal(found["observation.state"], states.astype(np.float32))
    assert found["task"] == ["lift"] * rows and found["other"] == 7
    batch = {"observation.images.top": pictures[:, -1], "observation.state": states[:, -1].tolist()}
    found = as_windows(batch, spec)
    assert np.array_equal(found["observation.images.top"], np.repeat(pictures[:, -1:], history, axis=1))
    assert np.array_equal(found["observation.state"], np.repeat(states[:, -1:].astype(np.float32), history, axis=1))
    assert found["task"] == [""] * rows
    one = {"observation.images.top": pictures[0, -1], "observation.state": states[0, -1], "task": "lift"}
    found = as_windows(one, spec)
    assert np.array_equal(found["observation.images.top"], np.repeat(pictures[:1, -1:], history, axis=1))
    assert found["task"] == ["lift"] and found["observation.state"].shape == (1, history, 3)


TOP, STATE = "observation.images.top", "observation.state"


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (
            {TOP: np.zeros((3, 96, 96), np.float32)},
            r"top is float32 of shape \[3, 96, 96\].*\[h, w, 3\].*moveaxis.*",
        ),
        ({TOP: np.zeros((2, 3, 8, 9), np.uint8)}, r"shape \[2, 3, 8, 9\].*moveaxis"),
        ({TOP: np.zeros((8, 9), np.uint8)}, r"shape \[8, 9\]; taken are uint8"),
        ({TOP: np.zeros((8, 9, 3))}, r"float64 of shape \[8, 9, 3\].*\(pictures \* 255\)"),
        ({STATE: np.zeros(4)}, r"state has shape \(4,\); the policy wants \(5,\), \(B, 5\) or \(B, T, 5\)"),
        ({STATE: [["a"] * 5]}, r"state has shape \(1, 5\); the policy wants"),
        ({STATE: 3.0}, r"state has shape \(\)"),
        ({TOP: np.zeros((2, 8, 9, 3), np.uint8), STATE: np.zeros((3, 5))}, r"top \[2, 8, 9, 3\].*state \[3, 5\]"),
        ({TOP: np.zeros((1, 3, 8, 9, 3), np.uint8), STATE: np.zeros((1, 5))}, r"top \[1, 3, 8, 9, 3\].*state \[1, 5\]"),
        ({STATE: np.zeros((3, 5)), "task": ["a", "b"]}, "task holds 2 texts for 3 observations"),
    ],
)
def test_another_form_is_refused_with_the_shapes_given_and_taken(observation, message):
    with pytest.raises(UserError, match=message):
        as_windows(observation, SPEC)


def test_a_lerobot_policy_answers_one_observation_a_batch_and_windows_alike_without_a_task(act):
    batch = batch_for(act.spec)
    keys = [key for key in batch if key.startswith("observation.images") or key == STATE]
    windows = {key: batch[key] for key in keys}
    expected = act.predict(batch)
    assert np.array_equal(act.predict(windows), expected)
    assert np.array_equal(act.predict({key: value[:, -1] for key, value in windows.items()}), expected)
    one = act.predict({key: value[1, -1] for key, value in windows.items()})
    assert one.shape == (1, 4, 3) and np.abs(one[0] - expected[1]).max() < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_what_a_lerobot_policy_reads_and_is_not_given_is_named(act):
    pictures = {key: value for key, value in batch_for(act.spec).items() if "images" in key}
    with pytest.raises(UserError, match=r"lacks 'observation.state', which the policy reads; its keys are"):
        act.predict(pictures)
    with pytest.raises(UserError, match=r"no camera 'front', which the policy needs"):
        act.predict({STATE: np.zeros(3)})


def test_an_octo_answers_one_observation_a_batch_and_windows_alike(octo):
    batch = octo_made_up.made_batch(3)
    windows = {key: value for key, value in batch.items() if "images" in key or key in (STATE, "task")}
    expected = octo.predict(batch)
    assert np.array_equal(octo.predict(windows), expected)
    flat = {key: value if key == "task" else value[:, -1] for key, value in windows.items()}
    assert np.array_equal(octo.predict(flat), expected)
    one = octo.predict({key: value[2] for key, value in flat.items()})
    assert one.shape == (1, 2, 3) and np.abs(one[0] - expected[2]).max() < 1e-5
    assert np.abs(expected[0] - expected[2]).max() > 1e-3
    distribution = octo.predict_distribution({key: value[2] for key, value in flat.items()})
    assert distribution is not None and distribution.mean.shape == (1, 2, 3)
