"""Statistics of differences: what a list of windows would give, and only valid steps of the chosen episodes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lerobot_policy_act_smooth_xp.statistics import action_slope, delta_statistics, read_actions

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
LAGS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-4, 12)), min_size=1, max_size=6)


def recording(lengths, seed=0, dims=2):
    random = np.random.default_rng(seed)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    return random.normal(size=(len(episode), dims)).cumsum(0), episode


def by_windows(actions, episode, lags, chosen):
    """Every difference that a window without padding at both steps holds, one by one."""
    found = []
    for t in range(len(actions)):
        for i, j in lags:
            inside = all(0 <= s < len(actions) and episode[s] == episode[t] for s in (t, t + i, t + j))
            if inside and episode[t] in chosen:
                found.append(actions[t + j] - actions[t + i])
    return np.array(found).reshape(-1, actions.shape[1])


@settings(max_examples=150, deadline=None)
@given(LENGTHS, LAGS, st.integers(0, 9), st.data())
def test_they_are_those_of_all_valid_window_steps(lengths, lags, seed, data):
    actions, episode = recording(lengths, seed)
    chosen = data.draw(st.sets(st.sampled_from(range(len(lengths))), min_size=1))
    expected = by_windows(actions, episode, lags, chosen)
    if not len(expected):
        with pytest.raises(ValueError, match="No action difference is left"):
            delta_statistics(actions, episode, lags, episodes=sorted(chosen))
        return
    found = delta_statistics(actions, episode, lags, episodes=sorted(chosen))
    assert found["count"].tolist() == [len(expected)]
    for name, value in {"mean": expected.mean(0), "std": expected.std(0)}.items():
        np.testing.assert_allclose(found[name], value, atol=1e-9)
    np.testing.assert_allclose(found["min"], expected.min(0), atol=1e-12)
    np.testing.assert_allclose(found["max"], expected.max(0), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(0, 9))
def test_normalising_differences_and_back_is_the_identity(lengths, seed):
    actions, episode = recording([length + 1 for length in lengths], seed)
    stats = delta_statistics(actions, episode, [(0, 1), (0, 0)])
    anchor = actions[:-1]
    normal = (actions[1:] - anchor - stats["mean"]) / np.maximum(stats["std"], 1e-6)
    np.testing.assert_allclose(normal * np.maximum(stats["std"], 1e-6) + stats["mean"] + anchor, actions[1:], atol=1e-9)


def test_they_do_not_depend_on_where_the_actions_lie():
    actions, episode = recording([50, 60])
    a, b = (delta_statistics(x, episode, [(0, j) for j in range(9)]) for x in (actions, actions + 1e6))
    np.testing.assert_allclose(a["std"], b["std"], rtol=1e-6)


def test_an_episode_that_is_not_chosen_does_not_count():
    actions, episode = recording([20, 20])
    wild = np.where(episode[:, None] == 1, 1e9 * actions, actions)
    a, b = (delta_statistics(x, episode, [(0, 3)], episodes=[0]) for x in (actions, wild))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_differences_to_the_state_and_dimensions_that_stay_absolute():
    actions, episode = recording([30])
    stats = delta_statistics(actions, episode, [(0, 0)], anchors=actions - 0.5, absolute_dims=[1])
    assert stats["mean"][0] == pytest.approx(0.5)
    assert stats["mean"][1] == pytest.approx(actions[:, 1].mean())


@pytest.mark.parametrize("lag", [(0, 7), (0, -9), (100, 101)])
def test_steps_longer_than_every_episode_are_an_error_alone_and_nothing_beside_others(lag):
    actions, episode = recording([5, 6])
    with pytest.raises(ValueError, match="11 frames in 2 episodes"):
        delta_statistics(actions, episode, [lag])
    alone = delta_statistics(actions, episode, [(0, 1)])
    beside = delta_statistics(actions, episode, [(0, 1), lag])
    assert all(np.array_equal(alone[name], beside[name]) for name in alone)


def test_shapes_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="3 episode indices"):
        delta_statistics(np.zeros((4, 2)), np.zeros(3), [(0, 1)])
    with pytest.raises(ValueError, match="must be one shape"):
        delta_statistics(np.zeros((4, 2)), np.zeros(4), [(0, 1)], anchors=np.zeros((4, 3)))


def test_the_slope_is_that_of_lerobots_normaliser():
    import torch
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.processor import NormalizerProcessorStep

    random = np.random.default_rng(0)
    names = ("std", "max", "q99", "q90", "mean", "min", "q01", "q10")
    stats = {name: np.sort(random.uniform(1, 9, 2)) + (4 if i < 4 else 0) for i, name in enumerate(names)}
    feature = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    for mode in ("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"):
        step = NormalizerProcessorStep(feature, {FeatureType.ACTION: NormalizationMode[mode]}, {"action": stats})
        x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        y = step._normalize_action(x, inverse=False)
        np.testing.assert_allclose(y[1] - y[0], action_slope(stats, mode) * np.ones(2), rtol=1e-5)


def test_a_folder_without_parquet_files_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no data"):
        read_actions(tmp_path)


@settings(max_examples=25, deadline=None)
@given(LENGTHS, LAGS, st.integers(0, 9), st.sampled_from(["action", "observation.state"]), st.sampled_from([[], [1]]))
def test_they_are_those_that_xp_computes(lengths, lags, seed, anchor, absolute):
    from xp.data import delta_statistics as of_xp
    from xp.data.array_dataset import ArrayDataset
    from xp.errors import UserError

    actions, episode = recording(lengths, seed)
    states = actions + np.random.default_rng(seed).normal(size=actions.shape)
    chosen = sorted(set(range(0, len(lengths), 2)))
    dataset = ArrayDataset(
        root=Path("here"), fps=10.0, tasks=["move"],
        lengths=np.array(lengths), episode_tasks=np.zeros(len(lengths), int),
        action=actions.astype(np.float32), state=states.astype(np.float32),
    )  # fmt: skip
    anchors = None if anchor == "action" else dataset.state
    try:
        wanted = delta_statistics(
            dataset.action, episode, lags, anchors=anchors, episodes=chosen, absolute_dims=absolute
        )
    except ValueError:
        with pytest.raises(UserError, match="no training episode .* is long enough"):
            of_xp(dataset, chosen, lags, anchor, absolute)
        return
    found = of_xp(dataset, chosen, lags, anchor, absolute)
    assert found["count"].tolist() == wanted["count"].tolist()
    for name in ("mean", "min", "max"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-9, err_msg=name)
    # A spread of rounding alone is 1 in xp; the plugin says what it is, and takes 1 when it makes a policy.
    still = (found["std"] == 1.0) & (wanted["std"] < 1e-6 * (1 + np.abs(actions).max() + np.abs(states).max()))
    np.testing.assert_allclose(found["std"], np.where(still, 1.0, wanted["std"]), atol=1e-9)
