import math

import numpy as np
import pytest
from data_made_up import made_up
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xp.data import compute_statistics, load_statistics, normalise, save_statistics, unnormalise
from xp.data.statistics import describe
from xp.errors import UserError

arrays = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)
)


def test_a_small_case_computed_by_hand():
    found = describe(np.asarray([[1, 5], [2, 5], [3, 5], [6, 5]], np.float32))
    assert found["mean"].tolist() == [3, 5]
    np.testing.assert_allclose(found["std"], [math.sqrt((4 + 1 + 0 + 9) / 4), 0])
    assert found["min"].tolist() == [1, 5] and found["max"].tolist() == [6, 5]
    np.testing.assert_allclose(found["p01"], [1 + 0.03 * 1, 5])
    np.testing.assert_allclose(found["p99"], [3 + 0.97 * 3, 5], rtol=1e-6)
    assert found["mask"].tolist() == [True, False]


@given(arrays)
def test_mean_and_deviation_agree_with_exact_sums(values):
    found = describe(values)
    for d in range(values.shape[1]):
        column = [float(v) for v in values[:, d]]
        mean = math.fsum(column) / len(column)
        std = math.sqrt(math.fsum((v - mean) ** 2 for v in column) / len(column))
        assert found["mean"][d] == pytest.approx(mean, rel=1e-6, abs=1e-6)
        assert found["std"][d] == pytest.approx(std, rel=1e-6, abs=1e-6)
    low, high = found["min"], found["max"]
    assert (low <= found["p01"]).all() and (found["p01"] <= found["p99"]).all() and (found["p99"] <= high).all()
    assert all(found[name].dtype == np.float32 for name in found if name != "mask")


def test_only_the_given_episodes_count():
    dataset = made_up([4, 3, 5], state_dim=2)
    before = compute_statistics(dataset, [0, 2])
    rows = dataset.rows([1])
    dataset.action[rows] = 1e6
    dataset.state[rows] = -1e6
    after = compute_statistics(dataset, [0, 2])
    assert before["num_transitions"] == 9 and before["num_trajectories"] == 2
    for group in ("action", "proprio"):
        for name, value in before[group].items():
            np.testing.assert_array_equal(after[group][name], value)
    kept = np.asarray([0, 1, 2, 3, 7, 8, 9, 10, 11])
    assert before["action"]["mean"].tolist() == pytest.approx([kept.mean()] * 2)
    assert before["proprio"]["max"].tolist() == [0, 0]


def test_a_dataset_without_state_has_empty_proprio_statistics():
    assert compute_statistics(made_up([4], state_dim=0), [0])["proprio"]["mean"].shape == (0,)


@given(arrays)
def test_unnormalising_undoes_normalising(values):
    statistics = describe(values)
    back = unnormalise(normalise(values, statistics), statistics)
    # x -> (x - m) / (s + 1e-8) * s + m: the eps of Octo's rule costs at most |x - m| * 1e-8 / s, s >= 1e-6.
    np.testing.assert_allclose(
        back, values, atol=1e-2 * float(np.ptp(values)) + 1e-4 if np.ptp(values) < 1e-3 else 1e-3
    )


def test_normalised_training_data_has_mean_zero_and_deviation_one():
    values = np.random.default_rng(0).normal(5, 3, (5000, 3)).astype(np.float32)
    values[:, 2] = 4
    z = normalise(values, describe(values))
    np.testing.assert_allclose(z[:, :2].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z[:, :2].std(axis=0), 1, atol=1e-5)
    assert (z[:, 2] == 4).all() and z.dtype == np.float32


def test_statistics_of_older_octo_files_without_a_mask_normalise_everything():
    statistics = {"mean": [1.0, 2.0], "std": [2.0, 4.0]}
    np.testing.assert_allclose(normalise(np.asarray([[3.0, 6.0]]), statistics), [[1, 1]])


def test_statistics_come_back_bit_for_bit(tmp_path):
    dataset = made_up([4, 3], action_dim=3, state_dim=0)
    dataset.action[:] = np.random.default_rng(0).normal(size=dataset.action.shape)
    statistics = compute_statistics(dataset, [0, 1])
    save_statistics(tmp_path / "dataset_statistics.json", statistics)
    loaded = load_statistics(tmp_path / "dataset_statistics.json")
    assert loaded["num_transitions"] == 7 and loaded["num_trajectories"] == 2
    for group in ("action", "proprio"):
        for name, value in statistics[group].items():
            assert loaded[group][name].dtype == value.dtype
            np.testing.assert_array_equal(loaded[group][name], value)


def test_no_episodes_and_broken_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="No training episode"):
        compute_statistics(made_up([4]), [])
    (tmp_path / "s.json").write_text('{"action": 3}')
    with pytest.raises(UserError, match=r"s\.json"):
        load_statistics(tmp_path / "s.json")


def test_an_environment_state_has_statistics_of_its_own_that_survive_the_file(tmp_path):
    dataset = made_up([4, 6], environment_dim=2)
    found = compute_statistics(dataset, [0])
    assert found["environment_state"]["max"].tolist() == [1003, 1003]
    save_statistics(tmp_path / "s.json", found)
    np.testing.assert_allclose(load_statistics(tmp_path / "s.json")["environment_state"]["std"], np.sqrt([1.25] * 2))
    assert "environment_state" not in compute_statistics(made_up([4]), [0])


def found_of(values) -> dict:
    from xp.data.statistics import describe

    return describe(np.asarray(values, np.float32).reshape(-1, 1))


@pytest.mark.parametrize("at", [1.0, 1e3, -1e3, 3.0e7])
@pytest.mark.parametrize("units", [1, 2])
def test_a_parked_joint_that_jitters_by_a_unit_of_the_last_place_is_constant(at, units):
    at = np.float32(at)
    values = np.tile([at, at + units * np.spacing(at)], 50)
    assert found_of(values)["std"] > 0
    assert not found_of(values)["mask"]


@pytest.mark.parametrize("size", [1.0, 1e-3, 3e-7, 1e-20])
def test_a_signal_is_normalised_whatever_its_size(size):
    values = size * np.sin(np.arange(100))
    found = found_of(values)
    assert found["mask"]
    back = unnormalise(normalise(np.float32(values)[:, None], found), found)
    np.testing.assert_allclose(back[:, 0], values, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("size", [1.0, 1e-5, 3e-7])
def test_a_normalised_signal_is_of_size_one(size):
    found = found_of(size * np.sin(np.arange(100)))
    scaled = normalise(np.float32(size * np.sin(np.arange(100)))[:, None], found)
    assert scaled.std() == pytest.approx(1, rel=0.1)  # Octo adds 1e-8 to the deviation


def test_a_small_signal_on_a_large_value_counts_where_float32_can_tell_it():
    fine = 1000 + 1e-2 * np.sin(np.arange(100))  # 160 units of the last place
    assert found_of(fine)["mask"]


def test_differences_that_are_rounding_alone_are_not_blown_up():
    from data_made_up import made_up

    from xp.data.statistics import delta_statistics

    dataset = made_up([50], action_dim=2)
    parked = np.tile(np.float32([1000, 1000 + 6.2e-5]), 25)
    object.__setattr__(dataset, "action", np.stack([parked, np.arange(50, dtype=np.float32)], axis=1))
    found = delta_statistics(dataset, [0], [(0, 1)], "action")
    assert found["std"][0] == 1.0
    found = delta_statistics(dataset, [0], [(0, 1), (0, 2)], "action")
    assert found["std"][1] == pytest.approx(0.5, rel=0.02)
