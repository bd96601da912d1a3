"""A dataset over arrays: what follows from them is worked out, and what contradicts itself is refused."""

from pathlib import Path

import numpy as np
import pytest

from xp.data import ArrayDataset, Batches, Windows, compute_statistics, open_frames, split_episodes
from xp.errors import UserError

LENGTHS = np.array([3, 2, 4])
N = int(LENGTHS.sum())


def made(folder: Path, **changed) -> ArrayDataset:
    folder.mkdir(exist_ok=True)
    (folder / "numbers.bin").write_bytes(b"numbers")
    starts = np.cumsum(LENGTHS) - LENGTHS
    given = {
        "root": folder, "fps": 5.0, "tasks": ["walk", "run"], "lengths": LENGTHS, "episode_tasks": np.array([0, 1, 0]),
        "action": np.arange(N, dtype=np.float64)[:, None], "state": np.arange(2 * N).reshape(N, 2),
        "files": [folder / "numbers.bin"], "cameras": {"eye": (4, 6, 3)},
        "frames": lambda camera, e: np.stack([np.full((4, 6, 3), starts[e] + i, np.uint8) for i in range(LENGTHS[e])]),
    }  # fmt: skip
    return ArrayDataset(**{**given, **changed})


def test_what_follows_from_the_arrays_is_worked_out(tmp_path):
    dataset = made(tmp_path / "d", columns={"reward": np.arange(N)})
    assert dataset.action.dtype == np.float32 and (dataset.action_dim, dataset.state_dim) == (1, 2)
    assert dataset.environment_state.shape == (N, 0) and dataset.num_frames == N
    assert dataset.action_names == ("action_0",) and dataset.state_names == ("state_0", "state_1")
    assert dataset.episodes.tasks == ("walk", "run", "walk")
    np.testing.assert_array_equal(dataset.episode_index, [0, 0, 0, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(dataset.frame_index, [0, 1, 2, 0, 1, 0, 1, 2, 3])
    np.testing.assert_array_equal(dataset.task_index, [0, 0, 0, 1, 1, 0, 0, 0, 0])


def test_everything_in_xp_data_works_on_it(tmp_path):
    dataset = made(tmp_path / "d")
    split = split_episodes(dataset, val_fraction=0.5, seed=0)
    frames = open_frames(dataset, {"eye": (2, 3)}, cache_dir=tmp_path / "cache", cache_gb=1)
    assert (frames["eye"] == np.arange(N, dtype=np.uint8)[:, None, None, None]).all()
    batch = Batches(Windows(dataset, frames, split.train, history=2, horizon=2), batch_size=2, seed=0).at(0)
    assert batch["observation.images.eye"].shape == (2, 2, 2, 3, 3) and batch["action"].shape == (2, 3, 1)
    assert compute_statistics(dataset, [0])["action"]["mean"] == 1.0


def test_its_fingerprint_is_that_of_its_files_wherever_they_lie(tmp_path):
    one, two = made(tmp_path / "a"), made(tmp_path / "b")
    assert one.fingerprint == two.fingerprint and len(one.fingerprint) == 64
    (tmp_path / "b" / "numbers.bin").write_bytes(b"others")
    file = tmp_path / "lone.bin"
    file.write_bytes(b"numbers")
    assert (
        len(
            {
                one.fingerprint,
                ArrayDataset.fingerprint.func(two),
                made(tmp_path / "c", root=file, files=[file]).fingerprint,
            }
        )
        == 3
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"action": np.zeros((N - 1, 1))}, "its action has the shape .8, 1.*its episodes have 9 rows"),
        ({"state": np.full((N, 1), np.nan)}, "state of .* holds nan at episode 0, frame 0"),
        ({"action_names": ("a", "b")}, "its action has the shape .9, 1. with 2 names"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(tmp_path, changed, words):
    with pytest.raises(UserError, match=words):
        made(tmp_path / "d", **changed)


def test_frames_of_another_size_are_refused(tmp_path):
    dataset = made(tmp_path / "d", frames=lambda camera, e: np.zeros((LENGTHS[e], 4, 5, 3), np.uint8))
    with pytest.raises(UserError, match=r"'eye' in episode 0 .* of shape \[3, 4, 5, 3\]: expected uint8 \[3, 4, 6"):
        list(dataset.read_frames("eye", (4, 6), "stored"))
