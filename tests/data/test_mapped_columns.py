"""Numbers of a large dataset are decoded once and mapped: those of no cache to the bit, never those of other files."""

import subprocess
import sys

import numpy as np
import pytest
from data_made_up import edit_info
from data_small import write_small

from xp.data import compute_statistics, open_dataset
from xp.data.lerobot import reader
from xp.errors import UserError

ARRAYS = ("action", "state", "environment_state", "episode_index", "frame_index", "task_index", "times")


@pytest.fixture
def every_size(monkeypatch):
    monkeypatch.setattr(reader, "SMALL", 0)


@pytest.fixture
def decoded(monkeypatch):
    """How often numbers were decoded."""
    calls, real = [], reader._read_frames
    monkeypatch.setattr(reader, "_read_frames", lambda *given: calls.append(1) or real(*given))
    return calls


def entries(cache):
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def same(one, other):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype
    for name in ("starts", "lengths", "task_index"):
        np.testing.assert_array_equal(getattr(one.episodes, name), getattr(other.episodes, name))
    assert one.fingerprint == other.fingerprint and one.episodes.tasks == other.episodes.tasks
    assert (one.timestamps is None) == (other.timestamps is None)


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("kind", ["image_set", "parts_set"])
def test_mapped_numbers_are_those_in_memory_to_the_bit(kind, request, tmp_path, decoded):
    root = request.getfixturevalue(kind).root
    plain = open_dataset(root)
    first = open_dataset(root, cache_dir=tmp_path)
    second = open_dataset(root, cache_dir=tmp_path)
    assert len(decoded) == 2  # without the cache, and once with it
    same(plain, first)
    same(plain, second)
    assert second.known_digests and not second.action.flags.writeable
    ours, theirs = (compute_statistics(each, range(each.episodes.num)) for each in (second, plain))
    for group in ("action", "proprio"):
        for name, value in theirs[group].items():
            assert value.tobytes() == ours[group][name].tobytes()


@pytest.mark.usefixtures("every_size")
def test_a_changed_or_copied_dataset_is_decoded_anew(tmp_path, decoded):
    root = write_small(tmp_path / "d", state=np.zeros((7, 3)))
    before = open_dataset(root, cache_dir=tmp_path / "cache")
    other = write_small(tmp_path / "e", state=np.ones((7, 3)))
    assert open_dataset(other, cache_dir=tmp_path / "cache").state.all()
    data = "data/chunk-000/file-000.parquet"
    (other / data).replace(root / data)
    after = open_dataset(root, cache_dir=tmp_path / "cache")
    assert len(decoded) == 3 and after.state.all() and not before.state.any()
    assert after.fingerprint != before.fingerprint


@pytest.mark.usefixtures("every_size")
def test_a_dataset_that_contradicts_itself_is_refused_and_leaves_nothing(tmp_path):
    root = write_small(tmp_path / "d")
    edit_info(root, total_frames=10_000_000)
    for _ in range(2):
        with pytest.raises(UserError, match="announces 10000000 frames"):
            open_dataset(root, cache_dir=tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


@pytest.mark.usefixtures("every_size")
def test_a_dataset_that_changes_while_it_is_read_is_not_kept(tmp_path, monkeypatch):
    root = write_small(tmp_path / "d", state=np.zeros((7, 3)))
    real = reader._read_frames

    def changing(*given):
        found = real(*given)
        edit_info(root, robot_type="new")
        return found

    monkeypatch.setattr(reader, "_read_frames", changing)
    assert open_dataset(root, cache_dir=tmp_path / "cache").num_frames == 7
    assert entries(tmp_path / "cache") == []


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("where", ["no room", "no folder"])
def test_where_nothing_can_be_kept_numbers_are_in_memory(where, tmp_path, decoded):
    root = write_small(tmp_path / "d")
    (tmp_path / "file").touch()
    cache, most = (tmp_path / "cache", 1e-9) if where == "no room" else (tmp_path / "file" / "cache", 1)
    dataset = open_dataset(root, cache_dir=cache, cache_gb=most)
    same(dataset, open_dataset(root))
    assert len(decoded) == 2


def test_a_small_dataset_is_not_kept(tmp_path):
    open_dataset(write_small(tmp_path / "d"), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_benchmark_opens_a_dataset_twice_and_says_what_it_took(checkout, tmp_path):
    command = [sys.executable, str(checkout / "benchmarks" / "dataset_memory.py"), "--episodes=600", "--no-lerobot"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "second process" in done.stdout and "MB private" in done.stdout
