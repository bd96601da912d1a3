"""A data format that xp has never seen: one object behind an entry point, and everything in xp.data works on it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from xp.config.dataset_facts import DatasetFacts, dataset_facts, find_format
from xp.data import (
    Batches,
    Windows,
    compute_statistics,
    in_order,
    open_dataset,
    open_frames,
    split_episodes,
    writing_format,
)
from xp.data.dataset import DatasetFormat, Episodes, Groups
from xp.data.dumps import draws, open_dump, save_dump
from xp.data.exporting import open_exportable
from xp.data.statistics import group_statistics, load_statistics, normalise, save_statistics, unnormalise
from xp.errors import UserError

LENGTHS = np.array([5, 3, 4])
N = int(LENGTHS.sum())
STEP = np.array([0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 2, 3])
"""Two attempts in the first episode."""


@dataclass(eq=False)
class ToyDataset:
    """Numbers that say where they come from: action[n] = n, reward[n] = n / 10, pixels of frame n = n."""

    root: Path
    fps: float = 5.0
    decoder: str = "auto"
    fingerprint: str = ""

    def __post_init__(self) -> None:
        self.fingerprint = hashlib.sha256(self.root.read_bytes()).hexdigest()
        starts = np.cumsum(LENGTHS) - LENGTHS
        self.tasks = ["walk", "run"]
        self.cameras = {"eye": (4, 6, 3)}
        self.episodes = Episodes(starts, LENGTHS, np.array([0, 1, 0]), tuple(self.tasks))
        rows = np.arange(N, dtype=np.float32)[:, None]
        self.episode_index = np.repeat(np.arange(3), LENGTHS)
        self.frame_index = np.arange(N) - starts[self.episode_index]
        self.task_index = self.episodes.task_index[self.episode_index]
        wide = self.episode_index[:, None] != 1  # the second episode's robot has one joint of two
        self.action = np.concatenate([rows, np.where(wide, -rows, 0)], axis=1)
        self.state, self.environment_state = rows * 2, np.zeros((N, 0), np.float32)
        self.columns = {"reward": np.arange(N) / 10, "done": np.append(STEP[1:] == 0, True), "step": STEP}
        self.groups = Groups(("two", "one"), (2, 1), (1, 1), np.array([0, 1, 0]))
        self.num_frames, self.action_dim, self.state_dim, self.environment_dim = N, 2, 1, 0
        self.action_names, self.state_names, self.environment_state_names = ("a", "b"), ("s",), ()

    def rows(self, episodes) -> np.ndarray:
        return self.episodes.rows(episodes)

    def frame_decoders(self, camera: str) -> tuple[str, ...]:
        return ("toy",)

    def choose_decoder(self, camera: str, log=None) -> str:
        return "toy"

    def read_frames(self, camera, size, decoder, log=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        assert decoder == "toy"
        for rows in np.array_split(np.arange(N), 3):
            yield rows, np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), *size, 3))


class ToyFormat:
    name = "toy"
    looks = "a toy is a file that ends in .toy"

    def owns(self, root) -> bool:
        return str(root).endswith(".toy") and Path(root).is_file()

    def facts(self, root) -> DatasetFacts:
        return DatasetFacts(("eye",), ("walk", "run"), 2, 1)

    def hint(self, given: str) -> str:
        return "A toy may be meant." if given.endswith("toy") else ""

    def open(self, root, *, decoder: str = "auto", cache_dir=None, cache_gb: float = 0) -> ToyDataset:
        return ToyDataset(Path(root), decoder=decoder)


FORMAT: DatasetFormat = ToyFormat()


@pytest.fixture
def toy(tmp_path, offer):
    offer("xp.datasets", toy=f"{__name__}:FORMAT")
    path = tmp_path / "walks.toy"
    path.write_text("toy")
    return path


def test_a_format_is_found_by_what_it_owns_and_told_to_configuration(toy, tmp_path):
    assert find_format(toy).name == "toy" and dataset_facts(str(toy)).cameras == ("eye",)
    assert open_dataset(toy, decoder="pyav").decoder == "pyav"
    with pytest.raises(UserError, match=r"toy is a file that ends in \.toy.*data\.root=.*walks\.toy"):
        open_dataset(tmp_path)
    with pytest.raises(UserError, match="A toy may be meant"):
        open_dataset(tmp_path / "nothing.toy")


def test_what_two_formats_claim_is_refused(toy, tmp_path, monkeypatch):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    monkeypatch.setattr(ToyFormat, "owns", lambda self, root: True)
    with pytest.raises(UserError, match="lerobot and toy|lerobot, toy"):
        open_dataset(tmp_path)


def test_a_job_on_a_file_of_a_format_passes_the_checks(toy):
    from xp.config import check, compose

    check(compose([f"data.root={toy}", "model=octo_tiny", "model.language.encoder=none"]))


def test_frames_of_any_format_are_cached_once(toy, tmp_path):
    dataset = open_dataset(toy)
    frames = open_frames(dataset, {"eye": (2, 3)}, cache_dir=tmp_path / "cache", cache_gb=1)["eye"]
    assert frames.shape == (N, 2, 3, 3) and (frames == np.arange(N, dtype=np.uint8)[:, None, None, None]).all()


def test_windows_hold_optional_columns_at_the_steps_of_their_actions(toy):
    dataset = open_dataset(toy)
    windows = Windows(dataset, {}, [0, 1, 2], history=2, horizon=3)
    batch = windows.batch(np.arange(len(windows)))
    rows = batch["action"][..., 0].astype(int)
    np.testing.assert_array_equal(batch["reward"], (rows / 10).astype(np.float32))
    np.testing.assert_array_equal(batch["step"], STEP[rows])
    np.testing.assert_array_equal(batch["done"], dataset.columns["done"][rows])
    assert [batch[name].dtype.name for name in ("reward", "done", "step")] == ["float32", "bool", "int64"]
    np.testing.assert_array_equal(batch["group_index"], np.array([0, 1, 0])[batch["episode_index"]])
    assert not batch["action"][batch["group_index"] == 1][..., 1].any()


def test_actions_alone_are_those_of_the_batch(toy):
    windows = Windows(open_dataset(toy), {}, [0, 1, 2], history=2, horizon=3)
    batch, (action, is_pad) = windows.batch(np.arange(len(windows))), windows.actions(np.arange(len(windows)))
    np.testing.assert_array_equal(action, batch["action"])
    np.testing.assert_array_equal(is_pad, batch["action_is_pad"])


def test_a_format_that_does_not_export_says_what_to_do_instead(toy, tmp_path):
    with pytest.raises(UserError, match=r"the format toy does not export\. .*data\.split=MANIFEST"):
        open_exportable(toy)
    with pytest.raises(UserError, match="no installed format knows it"):
        open_exportable(tmp_path)


def test_batches_splits_and_statistics_work_on_any_format(toy):
    dataset = open_dataset(toy)
    split = split_episodes(dataset, val_fraction=0.5, seed=0)
    assert len(split.train) == 2 and len(split.val) == 1 and split.about["dataset"] == dataset.fingerprint
    statistics = compute_statistics(dataset, [0, 2])
    rows = [0, 1, 2, 3, 4, 8, 9, 10, 11]
    assert statistics["action"]["mean"][0] == np.float32(np.mean(rows)) and statistics["num_transitions"] == 9
    batch = Batches(Windows(dataset, {}, split.train, history=1, horizon=2), batch_size=4, seed=1).at(3)
    assert batch["action"].shape == (4, 2, 2) and batch["reward"].shape == (4, 2) and len(batch["task"]) == 4


def test_statistics_of_groups_are_their_own_and_survive_a_file(toy, tmp_path):
    """The second group has one action dimension of two: its zeros in the other are no part of any statistics."""
    dataset = open_dataset(toy)
    statistics = compute_statistics(dataset, [0, 1])
    assert statistics["groups"].keys() == {"two", "one"}
    assert [statistics["groups"][name]["action"]["mean"].shape for name in ("two", "one")] == [(2,), (1,)]
    assert statistics["groups"]["one"]["action"]["mean"].tolist() == [6.0]  # rows 5, 6, 7
    assert statistics["groups"]["one"]["num_transitions"] == 3
    # of all episodes: the first dimension over rows 0 to 7, the second over those of the first group
    assert statistics["action"]["mean"].tolist() == [3.5, -2.0]
    save_statistics(tmp_path / "s.json", statistics)
    loaded = load_statistics(tmp_path / "s.json")
    np.testing.assert_equal(loaded, statistics)
    only = compute_statistics(dataset, [1])
    assert only["groups"].keys() == {"one"} and only["action"]["mask"].tolist() == [True, False]


def test_windows_of_several_groups_are_normalised_by_their_own_statistics(toy):
    dataset = open_dataset(toy)
    statistics = compute_statistics(dataset, [0, 1, 2])
    stacked = group_statistics(statistics, dataset.groups, "action")
    batch = Windows(dataset, {}, [0, 1, 2], history=1, horizon=1).batch(np.arange(N))
    own = {name: values[batch["group_index"]][:, None] for name, values in stacked.items()}
    normalised = normalise(batch["action"], own)
    for group, name in enumerate(dataset.groups.names):
        members, width = batch["group_index"] == group, dataset.groups.action_dims[group]
        values = normalised[members][:, 0, :width]
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5, err_msg=name)
        assert not normalised[members][:, 0, width:].any()
    np.testing.assert_allclose(unnormalise(normalised, own), batch["action"], atol=1e-4)


def test_a_dump_keeps_and_cuts_optional_columns(toy, tmp_path):
    dataset = open_dataset(toy)
    ordered = in_order(Windows(dataset, {}, [0, 2], history=2, horizon=3), 100)
    arrays = dict(next(iter(ordered)))
    arrays["task_index"] = np.array([dataset.tasks.index(text) for text in arrays.pop("task")])
    arrays |= draws(0, len(arrays["action"]), 1, 2, 3, 2)
    save_dump(tmp_path / "d.npz", arrays, tuple(dataset.tasks), {})
    cut = open_dump(tmp_path / "d.npz").batch([1, 4], history=1, horizon=2)
    np.testing.assert_array_equal(cut["reward"], arrays["reward"][[1, 4], 1:3])
    np.testing.assert_array_equal(cut["action"], arrays["action"][[1, 4], 1:3])


def test_a_dataset_without_optional_columns_has_windows_without_them():
    from data_made_up import made_up

    batch = Windows(made_up([3]), {}, [0], history=1, horizon=1).batch([0])
    assert not {"reward", "done", "step", "group_index"} & set(batch)


def test_a_format_that_only_reads_says_which_one_writes(toy, monkeypatch):
    with pytest.raises(UserError, match=r"collect\.format=toy: this data format only reads.*collect\.format=lerobot"):
        writing_format("toy", "collect.format")
    with pytest.raises(UserError, match=r"collect\.format=tay: no installed package has it \(did you mean 'toy'"):
        writing_format("tay", "collect.format")
    begun: list[Path] = []
    monkeypatch.setattr(ToyFormat, "create", lambda self, root, **layout: begun.append(root), raising=False)
    writing_format("toy", "collect.format").create(
        toy, fps=5, cameras={}, state_names=["s"], action_names=["a"], robot_type="toy"
    )
    assert begun == [toy]
