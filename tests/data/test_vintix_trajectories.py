"""Vintix's HDF5 trajectories: the original reader's windows, what is written and read, and one refusal for the rest."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vintix_made_up import attempts, describe, reference, rows_of, task_folder

from xp.data import Windows, compute_statistics, open_dataset, split_episodes, writing_format
from xp.data.vintix.folder import task_folders
from xp.data.vintix.reader import read_history
from xp.data.vintix.reader_windows import kept_rows, reader_windows
from xp.data.vintix.writer import GROUP_ROWS
from xp.errors import UserError

SETTINGS = {
    "s1_e1": {"trajectory_sparsity": 1},
    "s7_e1": {"trajectory_sparsity": 7},
    "s7_e212": {"trajectory_sparsity": 7, "ep_sparsity": {"arm_a": 2, "arm_b": 1, "leg": 2}},
    "s13_e3": {"trajectory_sparsity": 13, "ep_sparsity": 3},
    "s7_e1_last0.3": {"trajectory_sparsity": 7, "last_frac": 0.3},
}
SAMPLE = {"observation": "observation.state", "prev_action": "action", "prev_reward": "reward", "step_num": "step"}


@pytest.fixture(scope="module")
def data():
    return open_dataset(reference("data"))


@pytest.mark.parametrize("setting", SETTINGS)
def test_windows_of_the_original_reader_are_reproduced_exactly(setting, data):
    expected = np.load(reference("dunno/windows.npz"))
    found = {"task": [], "rows": [], "global": []}
    for episode, task in enumerate(data.episodes.tasks):
        start, length = data.episodes.starts[episode], data.episodes.lengths[episode]
        options = {key: value[task] if isinstance(value, dict) else value for key, value in SETTINGS[setting].items()}
        windows = reader_windows(data.columns["step"][start : start + length], context=32, **options)
        found["task"] += [task] * len(windows)
        found["rows"].append(windows)
        found["global"].append(windows + start)
    rows, place = np.concatenate(found["rows"]), np.concatenate(found["global"])
    assert len(rows) == expected[f"{setting}/len"]
    np.testing.assert_array_equal(rows, expected[f"{setting}/rows"])
    for number in (0, 1, len(rows) // 2, len(rows) - 1):
        sample = {key: expected[f"{setting}/sample{number}/{key}"] for key in ("observation", "prev_action", "action")}
        width, dims = sample["observation"].shape[1], sample["action"].shape[1]
        own = place[number]
        np.testing.assert_array_equal(data.state[own[1:], :width], sample["observation"])
        np.testing.assert_array_equal(data.action[own[:-1], :dims], sample["prev_action"])
        np.testing.assert_array_equal(data.action[own[1:], :dims], sample["action"])
        reward = expected[f"{setting}/sample{number}/prev_reward"][:, 0]
        np.testing.assert_array_equal(data.columns["reward"][own[:-1]], reward)
        np.testing.assert_array_equal(data.columns["step"][own[1:]], expected[f"{setting}/sample{number}/step_num"])
        assert found["task"][number] == str(expected[f"{setting}/sample{number}/task_name"])


def test_training_windows_hold_the_same_numbers_as_the_original_readers(data):
    expected = np.load(reference("dunno/windows.npz"))
    windows = Windows(data, {}, [0], history=33, horizon=1)
    last = int(expected["s1_e1/rows"][1][-1])
    batch = windows.batch([last])
    assert not batch["observation_is_pad"].any() and not batch["action_is_pad"].any()
    np.testing.assert_array_equal(batch["observation.state"][0, 1:, :7], expected["s1_e1/sample1/observation"])
    np.testing.assert_array_equal(batch["action"][0, :-1, :3], expected["s1_e1/sample1/prev_action"])
    np.testing.assert_array_equal(batch["action"][0, 1:, :3], expected["s1_e1/sample1/action"])
    np.testing.assert_array_equal(batch["reward"][0, :-1], expected["s1_e1/sample1/prev_reward"][:, 0])
    np.testing.assert_array_equal(batch["step"][0, 1:], expected["s1_e1/sample1/step_num"])
    assert batch["task"] == ["arm_a"] and batch["group_index"].tolist() == [0]


def test_the_reference_dataset_is_read_as_groups_of_dimensions(data):
    assert data.episodes.num == 5 and data.episodes.tasks == ("arm_a", "arm_a", "arm_b", "leg", "leg")
    assert data.groups.names == ("arm_a", "arm_b", "leg") and data.groups.state_dims == (7, 7, 11)
    assert data.groups.action_dims == (3, 3, 4) and data.action_dim == 4 and data.state_dim == 11
    assert not data.state[: int(data.episodes.lengths[:3].sum()), 7:].any()
    statistics = compute_statistics(data, range(5))
    given = reference("stats.json").read_text()
    import json

    for task, values in json.loads(given).items():
        own = statistics["groups"][task]
        n = own["num_transitions"]
        np.testing.assert_allclose(own["proprio"]["mean"], values["obs_mean"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(own["action"]["std"] * np.sqrt(n / (n - 1)), values["acs_std"], rtol=1e-5)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    context=st.integers(1, 20),
    sparsity=st.integers(1, 9),
    every=st.integers(1, 4),
)
def test_laws_of_the_original_windows(lengths, context, sparsity, every):
    step = np.concatenate([np.arange(n) for n in lengths])
    kept = kept_rows(step, ep_sparsity=every)
    assert kept.tolist() == [
        row for row, attempt in enumerate(np.repeat(np.arange(len(lengths)), lengths)) if attempt % every == 0
    ]
    windows = reader_windows(step, context=context, trajectory_sparsity=sparsity, ep_sparsity=every)
    assert len(windows) == max(-(-(len(kept) - context - 1) // sparsity), 0)
    for window in windows:
        place = np.flatnonzero(kept == window[0])[0]
        assert place % sparsity == 0
        np.testing.assert_array_equal(window, kept[place : place + context + 1])


def test_a_range_of_attempts_is_widened_to_their_borders():
    step = np.array([0, 1, 2, 0, 1, 2, 3, 0, 1, 0])
    assert kept_rows(step, episode_range=(0.0, 0.4)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert kept_rows(step, episode_range=(0.5, 0.8)).tolist() == [3, 4, 5, 6, 7, 8]
    assert kept_rows(step, episode_range=(0.0, 0.3)).tolist() == [0, 1, 2]  # the second bound begins an attempt
    assert kept_rows(step, episode_range=(0.2, 1.0)).tolist() == list(range(10))


def write(root, parts, **more):
    names = {"state_names": ["x", "y", "z"], "action_names": ["left", "right"]}
    options = {"fps": 50, "cameras": {}, "robot_type": "toy", **names, **more}
    with writing_format("vintix", "collect.format").create(root, **options) as writer:
        for number, part in enumerate(parts):
            writer.add_episode("walk", {}, truncated=number % 2 == 1, **part)
    return root


def test_what_is_written_is_read_bit_by_bit_and_has_the_original_layout(tmp_path):
    parts = attempts(1, lengths=(900, 700, 1, 1500, 3))
    root = write(tmp_path / "walk", parts)
    assert sorted(path.name for path in root.iterdir()) == ["trajectories.h5", "walk.json"]
    with h5py.File(root / "trajectories.h5") as file:
        assert sorted(file, key=lambda name: int(name.split("-")[0])) == [
            "0-999",
            "1000-1999",
            "2000-2999",
            "3000-3103",
        ]
        first = file["1000-1999"]
        assert {key: (first[key].shape, first[key].dtype.str) for key in first} == {
            "proprio_observation": ((GROUP_ROWS, 3), "<f4"),
            "action": ((GROUP_ROWS, 2), "<f4"),
            "reward": ((GROUP_ROWS,), "<f4"),
            "step_num": ((GROUP_ROWS,), "<i4"),
            "done": ((GROUP_ROWS,), "|b1"),
            "truncated": ((GROUP_ROWS,), "|b1"),
        }
        truncated = np.concatenate(
            [file[name]["truncated"][:] for name in sorted(file, key=lambda n: int(n.split("-")[0]))]
        )
        assert np.flatnonzero(truncated).tolist() == [1599, 3100]
    dataset = open_dataset(root)
    assert dataset.fps == 50 and dataset.action_names == ("left", "right") and dataset.tasks == ["walk"]
    for name, values in (("state", dataset.state), ("action", dataset.action), ("reward", dataset.columns["reward"])):
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
    ends = np.cumsum([len(part["action"]) for part in parts]) - 1
    assert np.flatnonzero(dataset.columns["done"]).tolist() == ends.tolist()
    assert np.flatnonzero(dataset.columns["step"] == 0).tolist() == [0, *(ends[:-1] + 1)]


def test_several_histories_of_a_task_and_tasks_side_by_side_are_one_dataset(tmp_path):
    for task, robot in (("go1", 3), ("cheetah", 2)):
        names = {"state_names": ["x", "y", "z"][:robot], "action_names": ["a", "b"]}
        format = writing_format("vintix", "collect.format")
        with format.create(tmp_path / task, fps=50, cameras={}, robot_type=task, **names) as writer:
            for history in (0, 1, 10):
                for part in attempts(history, state=robot):
                    writer.add_episode(task, {}, **part, history=history)
    dataset = open_dataset(tmp_path)
    assert dataset.episodes.tasks == ("cheetah",) * 3 + ("go1",) * 3 and set(dataset.episodes.lengths) == {50}
    assert dataset.groups.state_dims == (2, 3) and dataset.groups.parameter_groups == ("cheetah", "go1")
    split = split_episodes(dataset, val_fraction=0.34, seed=0)
    assert len(split.train) == 4 and len(split.val) == 2


def test_an_error_in_recording_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="rewards"):
        write(tmp_path / "walk", [{**attempts(0)[0], "reward": None}])
    bad = attempts(0)[0]
    bad["reward"][2] = np.nan
    with pytest.raises(UserError, match="reward holds nan at step 2"):
        write(tmp_path / "walk", [attempts(0)[0], bad])
    with pytest.raises(UserError, match="No episode was recorded"):
        write(tmp_path / "walk", [])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="env.cameras"):
        write(tmp_path / "walk", attempts(0), cameras={"eye": (8, 8)})


def test_a_file_that_reads_back_as_something_else_is_not_kept(tmp_path, monkeypatch):
    from xp.data.vintix import writer

    real = writer.read_history

    def flipped(*given):
        found = real(*given)
        found.reward[3] += 1
        return found

    monkeypatch.setattr(writer, "read_history", flipped)
    with pytest.raises(UserError, match="reads back as something else"):
        write(tmp_path / "walk", attempts(0))
    assert not list(tmp_path.iterdir())


def shorter(key):
    rows = rows_of()
    return {"0-6": {**rows, key: rows[key][:-1]}}


def changed(**arrays):
    return {"0-6": {**rows_of(), **arrays}}


BAD = {
    "unequal_rows": (shorter("action"), "unequal numbers of rows.*6 of action"),
    "one_observation_more": (changed(proprio_observation=np.zeros((8, 3), np.float32)), "unequal numbers of rows"),
    "missing_key": ({"0-6": {k: v for k, v in rows_of().items() if k != "reward"}}, "no array 'reward'"),
    "no_groups": ({}, "holds no rows"),
    "other_name": ({"0-6": rows_of(), "notes": rows_of()}, "entry 'notes'"),
    "a_gap": ({"0-6": rows_of(), "9-15": rows_of()}, "expected a group 7-13"),
    "wrong_bounds": ({"0-9": rows_of()}, "expected a group 0-6"),
    "other_width": (changed(action=np.zeros((7, 3), np.float32)), "action of shape"),
    "no_rows": ({"0-6": {k: v[:0] for k, v in rows_of().items()}}, "unequal numbers of rows, or none"),
    "step_jumps": (changed(step_num=np.array([0, 1, 3, 4, 0, 1, 2])), "step_num is 3 after 1 in row 2"),
    "step_is_a_fraction": (changed(step_num=np.array([0, 1, 1.5, 2, 0, 1, 2])), "step_num is 1.5"),
    "step_is_negative": (changed(step_num=np.array([-1, 0, 1, 2, 0, 1, 2])), "step_num is -1"),
    "reward_is_nan": (changed(reward=np.full(7, np.nan, np.float32)), "reward of row 0 is nan"),
    "state_is_inf": (changed(proprio_observation=np.full((7, 3), np.inf, np.float32)), "state.*holds inf"),
    "done_within_an_attempt": (changed(done=np.array([0, 1, 0, 0, 0, 0, 0], bool)), "done is true in row 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_contradict_each_other_are_one_refusal(name, tmp_path):
    groups, said = BAD[name]
    with pytest.raises(UserError, match=said):
        open_dataset(task_folder(tmp_path / "walk", groups))


def test_the_notes_of_the_self_improving_fork_are_passed_over(tmp_path):
    folder = task_folder(tmp_path / "walk", {"0-6": rows_of(), "metadata": {"episodes": np.zeros(3)}})
    assert open_dataset(folder).num_frames == 7


def test_descriptions_that_do_not_fit_are_refused(tmp_path):
    folder = task_folder(tmp_path / "data" / "walk", action_type="discrete")
    with pytest.raises(UserError, match="action_type is 'discrete'"):
        open_dataset(folder)
    describe(folder, state=3, action=2, observation_shape={"image": [3, 8, 8]})
    with pytest.raises(UserError, match="observation_shape.image"):
        open_dataset(folder)
    describe(folder)
    second = task_folder(tmp_path / "data" / "run", {"0-6": rows_of(action=1)}, action=1, task_name="walk")
    with pytest.raises(UserError, match="both of the task 'walk'"):
        open_dataset(tmp_path / "data")
    describe(second, action=1, group_name="walk")
    with pytest.raises(UserError, match="share encoders"):
        open_dataset(tmp_path / "data")
    describe(second, action=1, fps=20)
    with pytest.raises(UserError, match="different rates"):
        open_dataset(tmp_path / "data")
    (second / "run.json").rename(second / "other.json")
    assert task_folders(second)[0].description.name == "other.json"
    (second / "more.json").write_text("{}")
    with pytest.raises(UserError, match="expected their description, run.json"):
        open_dataset(second)


def test_a_history_may_begin_within_an_attempt(tmp_path):
    rows = rows_of()
    rows["step_num"] = np.array([5, 6, 7, 8, 0, 1, 2], np.int32)
    folder = task_folder(tmp_path / "walk", {"0-6": rows})
    history = read_history(folder / "trajectories_env_0.h5", 3, 2)
    assert history.step[0] == 5 and np.flatnonzero(history.done).tolist() == [3, 6]
    assert kept_rows(history.step, ep_sparsity=2).tolist() == [0, 1, 2, 3]


def test_a_task_folder_that_is_a_link_out_of_the_dataset_is_refused(tmp_path):
    task_folder(tmp_path / "data" / "walk")
    task_folder(tmp_path / "elsewhere")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link that leads out of"):
        open_dataset(tmp_path / "data")
