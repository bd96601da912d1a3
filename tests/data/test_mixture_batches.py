"""Batches of several datasets: a pure function of the step, padded and masked, weighed by dataset, task and episode."""

import json
from types import MappingProxyType

import numpy as np
import pytest
from data_made_up import made_up, made_up_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from xp.config.mixture import MemberOptions
from xp.data.mixture.batches import MixtureBatches, systematic
from xp.data.mixture.members import Member, Mixture
from xp.data.mixture.rates import common_rate, stride_of, summed
from xp.data.mixture.statistics import mixture_statistics
from xp.data.mixture.weights import episode_weights
from xp.data.mixture.windows import MixtureWindows
from xp.data.splits import Split
from xp.errors import UserError


def member(name, dataset, weight=1.0, *, stride=1, cameras=("top",), **options):
    given = MemberOptions(name=name, root=f"{name}-folder", weight=weight, **options)
    weights = episode_weights(given, dataset)
    train = tuple(int(episode) for episode in np.flatnonzero(weights))
    return Member(given, dataset, Split(train, ()), stride, weights, {camera: "top" for camera in cameras})


def batches(*members, batch_size=8, seed=0):
    mixture = Mixture(tuple(sorted(members, key=lambda each: each.name)), 10.0)
    frames = {each.name: {name: made_up_frames(each.dataset)["top"] for name in each.fed} for each in mixture.members}
    train = {each.name: each.split.train for each in mixture.members}
    windows = MixtureWindows(mixture, frames, train, history=2, horizon=3)
    return MixtureBatches(windows, batch_size=batch_size, seed=seed)


def small(**options):
    return member("small", made_up([5, 6], action_dim=2, state_dim=3), **options)


def wide(**options):
    return member("wide", made_up([7, 4, 9], [0, 1, 0], action_dim=4, state_dim=0), cameras=("top", "side"), **options)


def test_a_batch_holds_each_window_as_its_dataset_has_it_padded_and_dark_where_that_has_less():
    made = batches(small(weight=1.0), wide(weight=1.0))
    batch = made.at(0)
    assert batch["action"].shape == (8, 4, 4) and batch["observation.state"].shape == (8, 2, 3)
    own = batch["member_index"] == 0
    assert 0 < own.sum() < 8
    np.testing.assert_array_equal(batch["action"][own][..., 2:], 0)
    np.testing.assert_array_equal(batch["observation.state"][~own], 0)
    np.testing.assert_array_equal(batch["observation.images.side_is_pad"], np.repeat(own[:, None], 2, 1))
    np.testing.assert_array_equal(batch["observation.images.side"][own], 0)
    assert "observation.images.top_is_pad" not in batch
    for row in np.flatnonzero(own):
        alone = made.windows.parts[0].batch(made.indices(0)[row : row + 1])
        np.testing.assert_array_equal(batch["action"][row, :, :2], alone["action"][0])
        np.testing.assert_array_equal(batch["observation.images.top"][row], alone["observation.images.top"][0])
        assert batch["task"][row] == alone["task"][0]


@given(st.integers(0, 50), st.integers(0, 2**32))
@settings(max_examples=20)
def test_a_batch_is_a_pure_function_of_mixture_seed_and_step(step, seed):
    members = small(weight=0.3), wide(weight=0.7)
    first, second = batches(*members, seed=seed), batches(*members, seed=seed)
    for earlier in range(0, 20, 7):
        second.indices(earlier)
    np.testing.assert_array_equal(first.indices(step), second.indices(step))
    np.testing.assert_array_equal(
        batches(*members, seed=seed, batch_size=16).indices(step),
        np.concatenate([first.indices(2 * step), first.indices(2 * step + 1)]),
    )


def test_each_dataset_comes_in_epochs_of_its_own_each_window_once():
    made = batches(small(weight=0.25), wide(weight=0.75))
    drawn = np.concatenate([made.indices(step) for step in range(60)])
    for place, part in made.windows.parts.items():
        own = drawn[(drawn >= made.windows.first[place]) & (drawn < made.windows.first[place + 1])]
        whole = own[: len(own) // len(part) * len(part)].reshape(-1, len(part))
        np.testing.assert_array_equal(np.sort(whole, axis=1), np.tile(np.unique(own), (len(whole), 1)))


@given(st.floats(0.01, 10), st.floats(0.01, 10))
@settings(max_examples=20)
def test_realised_shares_are_what_was_asked_to_half_a_percent_after_a_thousand_batches(first, second):
    made = batches(small(weight=first), wide(weight=second), batch_size=1)
    for name, share in made.shares(1000).items():
        asked = {"small": first, "wide": second}[name] / (first + second)
        assert share["asked"] == pytest.approx(asked)
        assert abs(share["realised"] - asked) < 0.005
    assert sum(share["samples"] for share in made.shares(1000).values()) == 1000


def test_shares_are_those_of_the_batches():
    made = batches(small(weight=0.3), wide(weight=0.7, task_weights={"task 1": 2.0}))
    seen = np.concatenate([made.at(step)["member_index"] for step in range(40)])
    tasks = [text for step in range(40) for text in made.at(step)["task"]]
    shares = made.shares(40)
    assert shares["small"]["samples"] == (seen == 0).sum()
    assert shares["wide"]["tasks"]["task 1"]["samples"] == sum(text == "task 1" for text in tasks)
    # 16 windows of task 0 at weight 1, 4 of task 1 at weight 2
    assert shares["wide"]["tasks"]["task 1"]["asked"] == pytest.approx(0.7 * 8 / 24)


def test_an_episode_of_weight_0_is_dropped_and_others_come_as_often_as_they_weigh():
    made = batches(member("only", made_up([10, 10, 10]), episode_weights={0: 0.0, 2: 0.5}), batch_size=10)
    episodes = np.concatenate([made.at(step)["episode_index"] for step in range(300)])
    counts = np.bincount(episodes, minlength=3) / len(episodes)
    assert counts[0] == 0
    assert counts[1] == pytest.approx(2 / 3, abs=0.01)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40).filter(lambda w: max(w) > 1e-3), st.floats(0, 0.999))
def test_systematic_sampling_takes_each_within_one_of_its_due_and_none_of_weight_0(weights, offset):
    weights = np.asarray(weights)
    found = np.bincount(systematic(weights, offset), minlength=len(weights))
    assert found.sum() == len(weights)
    assert (np.abs(found - weights / weights.sum() * len(weights)) < 1 + 1e-6).all()
    assert not found[weights == 0].any()


def test_a_stride_makes_windows_of_a_lower_rate():
    made = batches(member("fast", made_up([30]), stride=3), batch_size=1)
    window = made.windows.batch([10])
    np.testing.assert_array_equal(window["action"][0, :, 0], [7, 10, 13, 16])
    np.testing.assert_array_equal(window["observation.state"][0, :, 0], [-7, -10])
    np.testing.assert_array_equal(made.windows.batch([29])["action_is_pad"][0], [False, False, True, True])


def test_movements_are_added_up_within_their_episode():
    dataset = made_up([4, 3])
    found = summed(dataset, 2, [1])
    np.testing.assert_array_equal(found[:, 0], [1, 3, 5, 3, 9, 11, 6])
    np.testing.assert_array_equal(found[:, 1], dataset.action[:, 1])


def test_rates_that_do_not_fit_are_refused_with_what_to_type():
    fast = MemberOptions(name="fast", root="F")
    with pytest.raises(UserError, match=r"no multiple of data.fps=4"):
        stride_of(fast, made_up([5]), 4.0)
    with pytest.raises(UserError, match=r"data.mix.fast.resample=every"):
        stride_of(fast, made_up([5]), 5.0)
    with pytest.raises(UserError, match="nothing is resampled"):
        stride_of(MemberOptions(name="fast", root="F", resample="sum"), made_up([5]), 10.0)
    assert common_rate({"a": made_up([5]), "b": made_up([5])}, None) == 10.0


def test_each_dataset_keeps_statistics_of_its_own():
    mixture = Mixture((small(), wide()), 10.0)
    found = mixture_statistics(mixture)
    assert {name: len(each["action"]["mean"]) for name, each in found["members"].items()} == {"small": 2, "wide": 4}
    assert len(found["members"]["wide"]["proprio"]["mean"]) == 0
    np.testing.assert_array_equal(found["action"]["mean"], np.zeros(4))
    assert found["num_transitions"] == 31


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 1], "2 weights; .* has 3 episodes"),
        ({"7": 0.0}, "names the episodes 7"),
        ({"first": 0.0}, "expected a number"),
        ([1, -1, 1], "the weight -1"),
        ([1, "much", 1], "expected a number of 0 or more"),
        ("no weights", "expected a list or an object"),
        ([0, 0, 0], "leave no episode"),
    ],
)
def test_weights_of_episodes_that_do_not_fit_the_dataset_are_refused(tmp_path, content, said):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        episode_weights(MemberOptions(name="a", root="A", episode_weights=str(path)), made_up([3, 3, 3]))


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path):
    (tmp_path / "broken.json").write_text("[1, ")
    for name in ("missing.json", "broken.json"):
        with pytest.raises(UserError, match="cannot be read"):
            episode_weights(MemberOptions(name="a", root="A", episode_weights=str(tmp_path / name)), made_up([3]))


def test_a_task_that_is_not_there_is_refused():
    options = MemberOptions(name="a", root="A", task_weights=MappingProxyType({"tsk 1": 2.0}))
    with pytest.raises(UserError, match="did you mean 'task 1'"):
        episode_weights(options, made_up([3, 3], [0, 1]))
