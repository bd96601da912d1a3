"""Every way a dataset can be wrong gives one paragraph that says what to do."""

import shutil

import numpy as np
import pytest
from data_made_up import edit_info
from data_small import write_small

from xp.data import open_dataset
from xp.errors import UserError


def refusal(root, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(root, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) > 60
    return message


@pytest.fixture
def small(tmp_path):
    return write_small(tmp_path / "d", state=np.zeros((7, 3)))


def test_a_missing_folder_names_both_ways_to_get_data(tmp_path):
    message = refusal(tmp_path / "nowhere")
    assert "xp task=collect" in message and "data.root=" in message and "nowhere" in message


def test_a_folder_that_is_no_dataset_says_what_it_lacks(tmp_path):
    assert "meta/info.json" in refusal(tmp_path)


def test_the_parent_of_a_dataset_suggests_the_dataset(small):
    assert f"data.root={small}" in refusal(small.parent)


def test_a_version_that_is_too_old_names_itself_and_those_that_are_read(small):
    edit_info(small, codebase_version="v1.6")
    message = refusal(small)
    assert "v1.6" in message and "v2.0, v2.1 and v3.0" in message


@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
def test_a_folder_that_calls_itself_older_than_it_is_says_what_is_missing(small, version):
    edit_info(small, codebase_version=version)
    assert "episodes.jsonl" in refusal(small)


def test_a_newer_version_is_refused(small):
    edit_info(small, codebase_version="v4.0")
    assert "v4.0" in refusal(small)


def test_broken_json_is_named(small):
    path = small / "meta" / "info.json"
    path.write_text(path.read_text()[:40])
    assert "info.json" in refusal(small)


@pytest.mark.parametrize("name", ["data/chunk-000/file-000", "meta/episodes/chunk-000/file-000", "meta/tasks"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(small, name, share):
    path = small / f"{name}.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = refusal(small)
    assert str(path) in message and "truncated" in message


def test_a_missing_data_file_is_named(small):
    path = small / "data" / "chunk-000" / "file-000.parquet"
    path.unlink()
    assert str(path) in refusal(small)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_actions_that_are_not_finite_are_located(tmp_path, bad):
    action = np.zeros((7, 2), np.float32)
    action[5, 1] = bad
    message = refusal(write_small(tmp_path / "d", action=action))
    assert "episode 1, frame 2, dimension 1 (action_1)" in message and str(np.float32(bad)) in message


def test_states_that_are_not_finite_are_located(tmp_path):
    state = np.zeros((7, 3), np.float32)
    state[0, 2] = np.nan
    message = refusal(write_small(tmp_path / "d", state=state))
    assert "observation.state" in message and "episode 0, frame 0, dimension 2" in message


def test_fewer_frames_than_announced_are_noticed(small):
    edit_info(small, total_frames=8)
    assert "announces 8 frames" in refusal(small) and "hold 7" in refusal(small)


def test_episode_lengths_that_disagree_with_the_metadata_are_noticed(tmp_path, small):
    other = write_small(tmp_path / "other", lengths=(4, 3))
    shutil.copytree(other / "meta" / "episodes", small / "meta" / "episodes", dirs_exist_ok=True)
    assert "episode 0 4 frames and the data has 3" in refusal(small)


def test_vectors_of_another_length_than_announced_are_noticed(small):
    feature = {"dtype": "float32", "shape": [3], "names": None}
    info = edit_info(small)
    edit_info(small, features={**info["features"], "action": feature})
    assert "'action'" in refusal(small)


def test_a_dataset_without_actions_is_refused(small):
    info = edit_info(small)
    del info["features"]["action"]
    edit_info(small, features=info["features"])
    assert "no feature 'action'" in refusal(small)


def test_an_unknown_decoder_is_refused(small):
    assert "torchcodec, pyav" in refusal(small, decoder="ffmpeg")


@pytest.fixture
def video_copy(video_set, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(video_set.root, copy)
    return copy, next(copy.glob("videos/*top/*/*.mp4"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_mp4_is_noticed_when_the_dataset_is_opened(video_copy, share):
    root, path = video_copy
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    message = refusal(root)
    assert str(path) in message and "truncated" in message


def test_a_missing_mp4_is_named(video_copy):
    root, path = video_copy
    path.unlink()
    assert str(path) in refusal(root)
