"""Validation dumps: the same windows and draws for everybody, in files that can execute nothing."""

import os
import pickle

import numpy as np
import pytest
from data_made_up import made_up, made_up_frames

from xp.data import Windows, in_order
from xp.data.dumps import draws, open_dump, refuse_foreign_file, save_dump
from xp.errors import UserError
from xp.models.policy import PolicySpec

HISTORY, HORIZON, DRAWS = 2, 3, 4


@pytest.fixture
def content():
    dataset = made_up([5, 6], [0, 1])
    windows = Windows(dataset, made_up_frames(dataset), (0, 1), history=HISTORY, horizon=HORIZON)
    (batch,) = in_order(windows, 100)
    task = batch.pop("task")
    names = tuple(dataset.tasks)
    batch["task_index"] = np.array([names.index(text) for text in task])
    return {**batch, **draws(7, len(windows), DRAWS, HISTORY, HORIZON, 2)}, names, task


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_what_is_written_is_read(content, suffix, tmp_path):
    arrays, names, task = content
    save_dump(tmp_path / f"dump{suffix}", arrays, names, {"seed": 7})
    dump = open_dump(tmp_path / f"dump{suffix}")
    assert (len(dump), dump.history, dump.horizon, dump.draws) == (11, HISTORY, HORIZON, DRAWS)
    assert dump.about == {"seed": 7, "version": 1}
    batch = dump.batch(np.arange(11))
    assert batch["task"] == task
    for name, array in arrays.items():
        if name != "task_index":
            assert np.array_equal(batch[name], array)
            assert batch[name].dtype == array.dtype
    assert batch["observation.images.top"].dtype == np.uint8


def test_batches_cover_every_window_once_and_are_cut_to_the_policys_shape(content, tmp_path):
    arrays, names, _ = content
    save_dump(tmp_path / "dump.npz", arrays, names, {})
    batches = list(open_dump(tmp_path / "dump.npz").batches(4, history=1, horizon=2))
    assert [len(batch["action"]) for batch in batches] == [4, 4, 3]
    action = np.concatenate([batch["action"] for batch in batches])
    assert np.array_equal(action, arrays["action"][:, 1:3])
    assert batches[0]["noise"].shape == (4, DRAWS, 1, 2, 2)
    assert batches[0]["observation.state"].shape == (4, 1, 1)


def test_draws_are_a_function_of_the_seed(content):
    one, again, other = (draws(seed, 50, 4, 1, 8, 7) for seed in (1, 1, 2))
    assert np.array_equal(one["noise"], again["noise"])
    assert not np.array_equal(one["noise"], other["noise"])
    assert abs(one["noise"].mean()) < 0.02
    assert 0 <= one["time"].min() < 0.05
    assert 0.95 < one["time"].max() < 1


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", ["val.pkl", "val.safetensors"])
def test_a_pickle_is_refused_and_nothing_in_it_runs(name, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps([Exploit(tmp_path / "executed")]))
    with pytest.raises(UserError, match="is a pickle.*xp task=dump"):
        open_dump(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_safetensors_file_that_begins_like_a_pickle_is_none(tmp_path):
    """The length of its header, 1152, is written as the bytes 80 04, with which a pickle of protocol 4 begins."""
    header = b"{}".ljust(1152)
    (tmp_path / "val.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refuse_foreign_file(tmp_path / "val.safetensors")


def test_a_pickle_inside_an_npz_is_refused_and_does_not_run(tmp_path):
    with (tmp_path / "val.npz").open("wb") as stream:
        np.savez(stream, action=np.array([Exploit(tmp_path / "executed")], dtype=object))
    with pytest.raises(UserError, match="cannot be read as a validation set"):
        open_dump(tmp_path / "val.npz")
    assert not (tmp_path / "executed").exists()


def test_wrong_files_are_named(content, tmp_path):
    arrays, names, _ = content
    with pytest.raises(UserError, match="There is no validation set"):
        open_dump(tmp_path / "nowhere.npz")
    save_dump(tmp_path / "dump.safetensors", arrays, names, {})
    whole = (tmp_path / "dump.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        open_dump(tmp_path / "cut.safetensors")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="no validation set of xp"):
        open_dump(tmp_path / "other.npz")
    with pytest.raises(UserError, match="ending in .safetensors, .npz"):
        save_dump(tmp_path / "dump.bin", arrays, names, {})


def test_a_policy_of_other_dimensions_is_told_all_of_them_at_once(content, tmp_path):
    arrays, names, _ = content
    save_dump(tmp_path / "dump.npz", arrays, names, {})
    dump = open_dump(tmp_path / "dump.npz")
    fit = {"horizon": 2, "action_dim": 2, "state_dim": 1, "cameras": {"top": (2, 2, 3)}, "history": 1}
    dump.refuse_unfit(PolicySpec(**fit), "POLICY")
    other = {"horizon": 4, "action_dim": 7, "state_dim": 3, "cameras": {"wrist": (2, 2, 3)}, "history": 3}
    with pytest.raises(UserError) as caught:
        dump.refuse_unfit(PolicySpec(**other), "POLICY")
    for part in ("actions of 2 dim", "states of 1", "3 future", "2 observed", "wrist", "dump.checkpoint=POLICY"):
        assert part in str(caught.value)


CONTRADICTIONS = {
    "another number of windows": ("noise", lambda a: a[:-1]),
    "NaN": ("action", lambda a: np.where(np.arange(2) > 0, np.nan, a).astype(np.float32)),
    "texts": ("observation.state", lambda a: a.astype(str)),
    "another number of axes": ("time", lambda a: a[..., None]),
    "whole numbers for flags": ("action_is_pad", lambda a: a.astype(np.int64)),
    "pictures as floats": ("observation.images.top", lambda a: a.astype(np.float32)),
    "a task that is not listed": ("task_index", lambda a: a + 7),
    "a negative task": ("task_index", lambda a: a - 1),
    "other steps": ("action", lambda a: a[:, 1:]),
    "draws of other steps": ("time", lambda a: a[:, :, :1]),
    "nothing at all": ("action", lambda a: a[:0]),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_dump_that_contradicts_itself_is_refused(content, case, tmp_path):
    arrays, names, _ = content
    key, change = CONTRADICTIONS[case]
    save_dump(tmp_path / "dump.npz", {**arrays, key: change(arrays[key])}, names, {})
    with pytest.raises(UserError, match="contradicts itself") as caught:
        open_dump(tmp_path / "dump.npz")
    assert "\n" not in str(caught.value)


def test_a_dump_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(content, tmp_path):
    arrays, names, _ = content
    save_dump(tmp_path / "dump.npz", arrays, names, {})
    import zipfile

    with (
        zipfile.ZipFile(tmp_path / "dump.npz", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("big.npy", "w", force_zip64=True) as entry,
    ):
        for _ in range(20):
            entry.write(bytes(10_000_000))
    with pytest.raises(UserError, match="does not explain"):
        open_dump(tmp_path / "dump.npz")


def test_a_dump_that_is_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "dump.npz")
    with pytest.raises(UserError, match="pipe"):
        open_dump(tmp_path / "dump.npz")
