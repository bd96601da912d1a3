"""Which attempts are learnt from, and how often windows of each are drawn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.data.array_dataset import ArrayDataset
from xp.data.attempts import DrawnWindows, by_attempt, returns
from xp.data.windows import Windows
from xp.errors import UserError
from xp.improve.selection import RULES, attempt_weights

NUMBERS = st.lists(st.floats(-100, 100), min_size=1, max_size=30).map(np.array)


@given(NUMBERS, st.sampled_from(RULES), st.floats(0.05, 1.0), st.floats(0.1, 3.0))
def test_better_attempts_never_count_less(scores, rule, share, temperature):
    weights = attempt_weights(scores, rule, share=share, temperature=temperature)
    order = np.argsort(-scores, kind="stable")
    assert weights.max() == 1.0 and (np.diff(weights[order]) <= 1e-12).all()
    if rule == "top_k":
        assert (weights > 0).sum() == max(1, round(share * len(scores)))


def test_weights_by_hand():
    scores = np.array([1.0, 5.0, 3.0, 4.0, 2.0])
    assert attempt_weights(scores, "top_k", share=0.4).tolist() == [0, 1, 0, 1, 0]
    assert attempt_weights(scores, "all").tolist() == [1] * 5
    expected = np.exp((scores - 5) / scores.std() / 2)
    np.testing.assert_allclose(attempt_weights(scores, "advantage", temperature=2.0), expected)


@pytest.mark.parametrize(("rule", "keys"), [("best", {}), ("top_k", {"share": 0.0}), ("advantage", {"temperature": 0})])
def test_what_cannot_be_is_refused(rule, keys):
    with pytest.raises(UserError, match="loop\\."):
        attempt_weights(np.zeros(3), rule, **keys)


def dataset() -> ArrayDataset:
    """Two histories of three attempts: 2 and 3 rows, then 4."""
    step = np.array([0, 1, 0, 1, 2, 0, 1, 2, 3])
    rows = np.arange(9, dtype=np.float32)
    return ArrayDataset(
        root=Path("made-up"),
        fps=50.0,
        tasks=["walk"],
        lengths=np.array([5, 4]),
        episode_tasks=np.array([0, 0]),
        action=rows[:, None],
        state=rows[:, None],
        columns={"step": step, "reward": rows},
    )


def test_histories_are_cut_into_attempts():
    cut = by_attempt(dataset())
    assert cut.episodes.lengths.tolist() == [2, 3, 4] and returns(cut).tolist() == [1.0, 9.0, 26.0]
    assert returns(dataset()).tolist() == [10.0, 26.0]
    batch = Windows(cut, {}, [0, 1, 2], history=3, horizon=1).batch([2])
    assert batch["action"][0, :, 0].tolist() == [2, 2, 2], "a window does not reach into the attempt before"


def test_windows_are_drawn_as_often_as_their_attempts_count():
    cut = by_attempt(dataset())
    parts = [
        (Windows(cut, {}, [0, 2], history=2, horizon=1), np.array([1.0, 0.25])),
        (Windows(cut, {}, [1], history=2, horizon=1), np.array([0.0])),
    ]
    drawn = DrawnWindows(parts, batch_size=500, seed=0)
    batch, again = drawn.at(3), drawn.at(3)
    assert np.array_equal(batch["episode_index"], again["episode_index"]) and len(batch["task"]) == 500
    share = np.mean(np.asarray(batch["episode_index"]) == 0)
    assert share == pytest.approx(2 / 3, abs=0.07), "two rows with weight 1 against four with a quarter"
    assert 1 not in batch["episode_index"]
    assert not np.array_equal(batch["frame_index"], drawn.at(4)["frame_index"])
