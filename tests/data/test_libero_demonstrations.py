"""LIBERO's own HDF5 files as a dataset: instructions, steps that do nothing, pictures as the suite shows them."""

import json

import h5py
import numpy as np
import pytest

from xp.data import open_dataset
from xp.data.libero.reader import moving_steps
from xp.errors import UserError

STILL = np.array([0, 0, 0, 0, 0, 0, -1], np.float64)


def moves(steps, seed=0):
    """Actions that all do something, the gripper open."""
    actions = np.random.default_rng(seed).uniform(0.1, 0.9, (steps, 7))
    actions[:, -1] = -1
    return actions


def demonstration(group, name, actions, size=(6, 8), seed=0):
    draw, steps = np.random.default_rng(seed), len(actions)
    inner = group.create_group(name)
    inner["actions"] = actions
    inner["dones"], inner["states"] = np.zeros(steps, np.uint8), draw.normal(size=(steps, 20))
    seen = inner.create_group("obs")
    seen["ee_states"], seen["gripper_states"] = draw.normal(size=(steps, 6)), draw.normal(size=(steps, 2))
    for key in ("agentview_rgb", "eye_in_hand_rgb"):
        seen[key] = draw.integers(0, 256, (steps, *size, 3), dtype=np.uint8)


def task_file(folder, name, instruction, *demonstrations, **options):
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{name}_demo.hdf5", "w") as file:
        data = file.create_group("data")
        if instruction is not None:
            data.attrs["problem_info"] = json.dumps({"problem_name": "x", "language_instruction": instruction})
        for number, actions in enumerate(demonstrations):
            demonstration(data, f"demo_{number}", actions, seed=number, **options)
    return folder / f"{name}_demo.hdf5"


@pytest.fixture
def folder(tmp_path):
    pauses = np.concatenate([[STILL], moves(3), [STILL], moves(2, 1)])
    task_file(tmp_path / "libero", "pick_up_a", "pick up the a", moves(4), pauses)
    task_file(tmp_path / "libero", "b_in_file", ["push the ", "b"], *[moves(2 + number) for number in range(11)])
    return tmp_path / "libero"


def test_numbers_and_instructions_are_the_files(folder):
    dataset = open_dataset(folder)
    assert dataset.fps == 20 and dataset.tasks == ["push the b", "pick up the a"]
    assert list(dataset.episodes.lengths) == [*range(2, 13), 4, 5], (
        "demo_10 comes after demo_9; two pauses are left out"
    )
    with h5py.File(folder / "pick_up_a_demo.hdf5") as file:
        seen, actions = file["data/demo_1/obs"], file["data/demo_1/actions"]
        kept = [1, 2, 3, 5, 6]
        rows = dataset.rows([12])
        np.testing.assert_array_equal(dataset.action[rows], np.float32(actions[kept]))
        np.testing.assert_array_equal(dataset.state[rows][:, :6], np.float32(seen["ee_states"][kept]))
        np.testing.assert_array_equal(dataset.state[rows][:, 6:], np.float32(seen["gripper_states"][kept]))


def test_pictures_are_turned_by_half_a_turn(folder):
    dataset = open_dataset(folder)
    assert dataset.cameras == {"agentview": (6, 8, 3), "robot0_eye_in_hand": (6, 8, 3)}
    found = {}
    for rows, pictures in dataset.read_frames("robot0_eye_in_hand", (6, 8), "stored"):
        found.update(zip(rows.tolist(), pictures, strict=True))
    assert len(found) == dataset.num_frames
    with h5py.File(folder / "pick_up_a_demo.hdf5") as file:
        stored = file["data/demo_1/obs/eye_in_hand_rgb"][5]
    np.testing.assert_array_equal(found[int(dataset.rows([12])[3])], stored[::-1, ::-1])


def test_names_and_cameras_are_those_of_the_suite(folder):
    facts = pytest.importorskip("xp.envs.libero.facts")
    dataset = open_dataset(folder)
    assert dataset.action_names == facts.ACTION_NAMES and dataset.state_names == facts.STATE_NAMES
    assert set(dataset.cameras) == set(facts.DEFAULT_CAMERAS) and dataset.fps == facts.FPS


def test_a_step_that_only_moves_the_gripper_is_kept():
    closed = np.where(np.arange(7) == 6, 1.0, 0.0)
    actions = np.stack([STILL, closed, closed, moves(1)[0], STILL, STILL])
    assert moving_steps(actions).tolist() == [3], (
        "before anything was kept the gripper counts for nothing, as published"
    )
    actions = np.stack([moves(1)[0], STILL, closed, closed, STILL, moves(1)[0]])
    assert moving_steps(actions).tolist() == [0, 2, 4, 5]


def _without(key):
    def change(file):
        del file["data/demo_0"][key]

    return change


def _instead(key, values):
    def change(file):
        del file["data/demo_0"][key]
        file["data/demo_0"][key] = values

    return change


DAMAGE = {
    "no instruction": (lambda file: file["data"].attrs.pop("problem_info"), "says no instruction.*problem_info"),
    "an instruction that is no JSON": (
        lambda file: file["data"].attrs.modify("problem_info", "{"), "says no instruction"
    ),
    "a number for an instruction": (lambda file: file["data"].attrs.create("problem_info", 7), "expected a text"),
    "no demonstrations": (lambda file: file["data"].pop("demo_0"), "holds no demonstrations"),
    "no data": (lambda file: file.pop("data"), "has no group 'data'"),
    "no actions": (_without("actions"), "demo_0 has no `actions`"),
    "no states": (_without("obs/ee_states"), "demo_0 has no `obs/ee_states`"),
    "narrow actions": (_instead("actions", np.ones((4, 6))), r"actions has the shape \[4, 6\]: expected \[4, 7\]"),
    "fewer states": (_instead("obs/ee_states", np.ones((3, 6))), r"ee_states has the shape \[3, 6\]"),
    "no steps": (_instead("actions", np.ones((0, 7))), "at least 1 step"),
    "an action that is not finite": (_instead("actions", np.full((4, 7), np.nan)), "nan|NaN"),
    "nothing moves": (_instead("actions", np.zeros((4, 7))), "does nothing"),
    "pictures of floats": (_instead("obs/agentview_rgb", np.ones((4, 6, 8, 3))), "expected uint8"),
    "fewer pictures": (_instead("obs/agentview_rgb", np.ones((3, 6, 8, 3), np.uint8)), r"expected uint8 \[4, height"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_by_its_name(tmp_path, name):
    change, said = DAMAGE[name]
    file = task_file(tmp_path / "d", "t", "do it", moves(4))
    with h5py.File(file, "r+") as opened:
        change(opened)
    with pytest.raises(UserError, match=said) as error:
        open_dataset(tmp_path / "d")
    assert "t_demo.hdf5" in str(error.value) or "NaN" in str(error.value) or str(tmp_path / "d") in str(error.value)


def test_files_of_several_picture_sizes_are_refused(tmp_path):
    task_file(tmp_path / "d", "one", "do it", moves(3))
    task_file(tmp_path / "d", "two", "do that", moves(3), size=(4, 4))
    with pytest.raises(UserError, match="6 x 8 pixels in .*one_demo.* and 4 x 4 pixels in .*two_demo"):
        open_dataset(tmp_path / "d")


def test_a_link_to_another_file_is_not_followed(tmp_path):
    file = task_file(tmp_path / "d", "t", "do it", moves(4))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["actions"] = np.ones((4, 7))
    with h5py.File(file, "r+") as opened:
        del opened["data/demo_0"]["actions"]
        opened["data/demo_0"]["actions"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "actions")
    with pytest.raises(UserError, match="is a link to something else"):
        open_dataset(tmp_path / "d")
