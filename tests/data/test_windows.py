import numpy as np
import pytest
from data_made_up import made_up, made_up_frames
from hypothesis import given
from hypothesis import strategies as st

from xp.data import Windows
from xp.errors import UserError


def naive(dataset, frames, row: int, history: int, horizon: int) -> dict:
    """One window, frame by frame, as the contract words it."""
    e = dataset.episode_index[row]
    first = dataset.episodes.starts[e]
    last = first + dataset.episodes.lengths[e] - 1
    seen = list(range(row - history + 1, row + 1))
    steps = list(range(row - history + 1, row + horizon))
    inside = [max(n, first) for n in seen]
    near = [min(max(n, first), last) for n in steps]
    return {
        "observation.images.top": np.stack([frames["top"][n] for n in inside]),
        "observation.state": np.stack([dataset.state[n] for n in inside]),
        "observation.environment_state": np.stack([dataset.environment_state[n] for n in inside]),
        "observation_is_pad": np.asarray([n < first for n in seen]),
        "action": np.stack([dataset.action[n] for n in near]),
        "action_is_pad": np.asarray([n < first or n > last for n in steps]),
        "episode_index": e,
        "frame_index": row - first,
        "task": dataset.tasks[dataset.task_index[row]],
    }


@st.composite
def cases(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    tasks = draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    chosen = draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    return lengths, tasks, chosen, draw(st.integers(1, 4)), draw(st.integers(1, 7))


@given(cases(), st.randoms(use_true_random=False))
def test_batches_equal_windows_cut_frame_by_frame(case, random):
    lengths, tasks, chosen, history, horizon = case
    dataset = made_up(lengths, tasks, environment_dim=3)
    frames = made_up_frames(dataset)
    windows = Windows(dataset, frames, chosen, history=history, horizon=horizon)
    rows = [int(n) for e in chosen for n in range(dataset.episodes.starts[e], dataset.episodes.starts[e] + lengths[e])]
    assert len(windows) == len(rows)
    indices = [random.randrange(len(rows)) for _ in range(9)]
    batch = windows.batch(indices)
    for b, index in enumerate(indices):
        expected = naive(dataset, frames, rows[index], history, horizon)
        assert set(expected) == set(batch)
        for key, value in expected.items():
            np.testing.assert_array_equal(batch[key][b], value, err_msg=key)


@given(cases())
def test_windows_never_leave_their_episode(case):
    lengths, tasks, chosen, history, horizon = case
    dataset = made_up(lengths, tasks)
    windows = Windows(dataset, made_up_frames(dataset), chosen, history=history, horizon=horizon)
    batch = windows.batch(np.arange(len(windows)))
    rows = batch["action"][..., 0].astype(int)  # action n is the number n
    assert (dataset.episode_index[rows] == batch["episode_index"][:, None]).all()


@given(cases())
def test_an_action_is_unpadded_exactly_where_it_is_the_action_of_that_step(case):
    lengths, tasks, chosen, history, horizon = case
    dataset = made_up(lengths, tasks)
    windows = Windows(dataset, made_up_frames(dataset), chosen, history=history, horizon=horizon)
    batch = windows.batch(np.arange(len(windows)))
    t = dataset.episodes.starts[batch["episode_index"]] + batch["frame_index"]
    wanted = t[:, None] + np.arange(1 - history, horizon)
    assert (batch["action_is_pad"] == (batch["action"][..., 0] != wanted)).all()
    assert not batch["action_is_pad"][:, history - 1].any()  # the action at t itself always exists
    assert not batch["observation_is_pad"][:, -1].any()


def test_dtypes_and_shapes_are_those_of_the_contract():
    dataset = made_up([5, 6], action_dim=3, state_dim=4)
    batch = Windows(dataset, made_up_frames(dataset), [0, 1], history=2, horizon=4).batch([0, 10, 3])
    described = {key: (value.dtype.name, value.shape) for key, value in batch.items() if key != "task"}
    assert described == {
        "observation.images.top": ("uint8", (3, 2, 2, 2, 3)),
        "observation.state": ("float32", (3, 2, 4)),
        "observation_is_pad": ("bool", (3, 2)),
        "action": ("float32", (3, 5, 3)),
        "action_is_pad": ("bool", (3, 5)),
        "episode_index": ("int64", (3,)),
        "frame_index": ("int64", (3,)),
    }
    assert batch["task"] == ["task 0"] * 3


def test_changing_a_batch_does_not_change_the_dataset():
    dataset = made_up([5])
    frames = made_up_frames(dataset)
    windows = Windows(dataset, frames, [0], history=1, horizon=2)
    batch = windows.batch([1, 2])
    for key in ("observation.images.top", "observation.state", "action", "episode_index", "frame_index"):
        batch[key][...] = 77
    again = windows.batch([1, 2])
    assert again["action"][0, 0, 0] == 1 and again["observation.images.top"].max() == 2
    assert dataset.episode_index.max() == 0


@pytest.mark.parametrize("index", [-1, 5])
def test_a_window_that_does_not_exist_is_an_error_and_does_not_wrap_around(index):
    dataset = made_up([5])
    with pytest.raises(IndexError, match=r"0\.\.4"):
        Windows(dataset, {}, [0], history=1, horizon=1).batch([index])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"history": 1, "horizon": 0}, "horizon.train=0"),
        ({"history": 0, "horizon": 1}, "history=0"),
        ({"history": 1, "horizon": 1, "episodes": []}, "no episodes"),
        ({"history": 1, "horizon": 1, "episodes": [1]}, "episode 1"),
        ({"history": 1, "horizon": 1, "episodes": [-1]}, "episode -1"),
    ],
)
def test_impossible_windows_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        Windows(made_up([5]), {}, options.pop("episodes", [0]), **options)


def test_windows_of_a_dataset_without_environment_state_do_not_speak_of_one():
    assert "observation.environment_state" not in Windows(made_up([3]), {}, [0], history=1, horizon=1).batch([0])
