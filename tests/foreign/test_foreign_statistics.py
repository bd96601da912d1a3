"""Statistics from outside are used as they are or refused, by one rule."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.data import load_statistics
from xp.errors import UserError
from xp.foreign.statistics import checked_statistics

GOOD = {"mean": [0.5, -1.0], "std": [0.1, 2.0], "min": [0, -9], "max": [1, 9], "p01": [0.1, -5], "p99": [0.9, 5]}

BAD = {
    "a negative std": ({"std": [0.1, -2.0]}, "negative std in dimension 1"),
    "a std of 0": ({"std": [0.0, 2.0]}, "std of 0 in dimension 0"),
    "a std that float32 cannot hold": ({"std": [1e-60, 2.0]}, "std of 0 in dimension 0"),
    "NaN": ({"mean": [float("nan"), 0]}, "mean = nan in dimension 0"),
    "infinity": ({"max": [1, float("inf")]}, "max = inf in dimension 1"),
    "beyond float32": ({"max": [1, 1e39]}, "finite in float32"),
    "another length": ({"std": [0.1, 2.0, 3.0]}, "std of shape"),
    "quantiles in the wrong order": ({"p01": [0.95, -5]}, "p01 above p99 in dimension 0"),
    "LeRobot's quantiles in the wrong order": ({"q01": [0, 9], "q99": [1, 0]}, "q01 above q99 in dimension 1"),
    "bounds in the wrong order": ({"min": [2, -9]}, "min above max in dimension 0"),
    "a mean outside of the bounds": ({"mean": [7, 0]}, "mean outside of min and max in dimension 0"),
    "texts": ({"mean": ["a", "b"]}, "mean = "),
    "null inside": ({"mean": [None, 0]}, "mean = "),
    "rows of different lengths": ({"mean": [[1, 2], [3]]}, "mean = "),
    "no mean": ({"mean": None}, "no mean"),
    "a mask of numbers": ({"mask": [1, 0]}, "mask = "),
    "a mask of another length": ({"mask": [True]}, "mask of shape"),
    "a count of 0": ({"count": [0]}, "count = "),
    "a count that is no whole number": ({"count": 2.5}, "count = "),
}


@pytest.mark.parametrize("case", BAD)
def test_statistics_that_nothing_can_be_normalised_by_are_refused(case):
    change, said = BAD[case]
    with pytest.raises(UserError, match="FILE: action cannot be used") as caught:
        checked_statistics({**GOOD, **change}, "FILE: action", positive=True)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_good_statistics_come_back_as_arrays():
    found = checked_statistics({**GOOD, "mask": [True, False], "count": [9]}, "FILE", positive=True)
    assert {name: array.dtype.name for name, array in found.items() if array.dtype != np.float32} == {
        "mask": "bool",
        "count": "int64",
    }
    np.testing.assert_array_equal(found["std"], np.float32([0.1, 2.0]))


def test_a_dimension_that_is_masked_may_have_no_deviation():
    checked_statistics({**GOOD, "std": [0.0, 2.0], "mask": [False, True]}, "FILE", positive=True)


def test_statistics_of_images_have_more_axes():
    channels = [[[0.1]], [[0.2]], [[0.3]]]
    assert checked_statistics({"mean": channels, "std": channels}, "FILE")["mean"].shape == (3, 1, 1)


def test_empty_statistics_of_a_missing_state_are_right():
    checked_statistics({"mean": [], "std": [], "mask": []}, "FILE", positive=True)


@pytest.mark.parametrize("group", ["action", "proprio", "environment_state"])
def test_a_given_file_is_refused_with_its_name_and_the_feature(tmp_path, group):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"action": GOOD, group: {**GOOD, "std": [1, -1]}}))
    with pytest.raises(UserError, match=rf"s\.json: {group}.*negative std"):
        load_statistics(path)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"bridge": {"action": {}}}', "{", '{"action": []}', '{"action": null}']
)
def test_a_file_without_statistics_of_actions_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(UserError, match=r"s\.json"):
        load_statistics(tmp_path / "s.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "mask", "count"]), inner, max_size=9)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "mask", "count", "q01", "q99"]), JSON, max_size=9) | JSON)
def test_whatever_stands_there_is_arrays_or_one_refusal(entry):
    try:
        found = checked_statistics(entry, "FILE", positive=True)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert all(np.isfinite(array).all() for array in found.values())
    used = found.get("mask", np.ones(found["std"].shape, bool))
    assert (found["std"][used] > 0).all()
