import json
from typing import Any

import numpy as np
import pytest
from data_written import CAMERAS, LENGTHS, TASKS

from xp.data import open_dataset
from xp.data.lerobot.writer import LeRobotWriter
from xp.errors import UserError

OPTIONS = {"fps": 10, "cameras": {"top": (16, 16)}, "action_names": ["x", "y"], "robot_type": "arm"}


def episode(n: int = 3, states: int = 0):
    images = {"top": np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)}
    return images, np.zeros((n, states), np.float32), np.ones((n, 2), np.float32)


@pytest.mark.parametrize("kind", ["image_set", "video_set"])
def test_lerobot_itself_opens_what_was_written(kind, request):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    written = request.getfixturevalue(kind)
    theirs: Any = LeRobotDataset("local/x", root=written.root, video_backend="pyav", return_uint8=True)
    assert (theirs.num_episodes, theirs.num_frames, theirs.fps) == (len(LENGTHS), sum(LENGTHS), 10)
    assert theirs.meta.robot_type == "arm"
    row = 0
    for e, length in enumerate(LENGTHS):
        for i in range(length):
            item = theirs[row]
            np.testing.assert_array_equal(item["action"].numpy(), written.action[row])
            np.testing.assert_array_equal(item["observation.state"].numpy(), written.state[row])
            assert (int(item["episode_index"]), int(item["frame_index"]), item["task"]) == (e, i, TASKS[e])
            row += 1


def test_lerobot_reads_the_same_pixels_from_stored_images(image_set):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    theirs: Any = LeRobotDataset("local/x", root=image_set.root)
    for camera in CAMERAS:
        for row in range(0, len(theirs), 5):
            pixels = theirs[row][f"observation.images.{camera}"].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(np.round(pixels * 255), image_set.images[camera][row])


def test_a_dataset_appears_only_when_it_is_closed(tmp_path):
    writer = LeRobotWriter(tmp_path / "d", state_names=[], **OPTIONS)
    writer.add_episode("t", *episode())
    assert not (tmp_path / "d").exists()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["data", "meta"]
    dataset = open_dataset(tmp_path / "d")
    assert dataset.num_frames == 3 and dataset.state_dim == 0


def test_episodes_of_one_frame_among_longer_ones_are_written_beyond_the_tenth(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    lengths = [3] * 10 + [1] + [2] * 9 + [1]
    with LeRobotWriter(tmp_path / "d", state_names=[], **OPTIONS) as writer:
        for length in lengths:
            writer.add_episode("t", *episode(length))
    assert open_dataset(tmp_path / "d").episodes.lengths.tolist() == lengths
    theirs: Any = LeRobotDataset("local/x", root=tmp_path / "d")
    assert [int(length) for length in theirs.meta.episodes["length"]] == lengths


def test_every_file_can_be_read_by_those_who_may_read_new_files(video_set, tmp_path):
    (tmp_path / "new").write_text("")
    usual = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in video_set.root.rglob("*.*") if path.is_file()} == {usual}


def test_an_error_while_recording_leaves_nothing_behind(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        LeRobotWriter(tmp_path / "d", state_names=[], **OPTIONS) as writer,
    ):
        writer.add_episode("t", *episode())
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_closing_without_episodes_is_refused_and_leaves_nothing_behind(tmp_path):
    with (
        pytest.raises(UserError, match="No episode"),
        LeRobotWriter(tmp_path / "d", state_names=[], **OPTIONS),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        LeRobotWriter(tmp_path / "d", state_names=[], **OPTIONS)
    assert (tmp_path / "d" / "mine").read_text() == "x"
    with LeRobotWriter(tmp_path / "d", state_names=[], overwrite=True, **OPTIONS) as writer:
        writer.add_episode("t", *episode())
        assert (tmp_path / "d" / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert json.loads((tmp_path / "d" / "meta" / "info.json").read_text())["total_episodes"] == 1


def test_episodes_that_do_not_fit_are_refused_and_the_others_kept(tmp_path):
    images, state, action = episode(states=1)
    bad_action, bad_state = action.copy(), state.copy()
    bad_action[1, 1] = np.nan
    bad_state[2, 0] = np.inf
    wrong = [
        ({}, state, action, "images"),
        ({"top": images["top"][:2]}, state, action, "images"),
        ({"top": images["top"].astype(np.float32)}, state, action, "uint8"),
        (images, state[:, :0], action, "state"),
        (images, state, action[:, :1], "action"),
        (images, state, bad_action, "frame 1, dimension 1 .y."),
        (images, bad_state, action, "frame 2, dimension 0 .s."),
        ({"top": images["top"][:0]}, state[:0], action[:0], "shape"),
    ]
    with LeRobotWriter(tmp_path / "d", state_names=["s"], **OPTIONS) as writer:
        for *arrays, words in wrong:
            with pytest.raises(UserError, match=words):
                writer.add_episode("t", *arrays)
        writer.add_episode("t", images, state, action)
    assert open_dataset(tmp_path / "d").episodes.lengths.tolist() == [3]


@pytest.mark.parametrize("changes", [{"fps": 12.5}, {"fps": 0}, {"cameras": {}}, {"action_names": []}])
def test_impossible_datasets_are_refused(tmp_path, changes):
    with pytest.raises(UserError):
        LeRobotWriter(tmp_path / "d", state_names=[], **{**OPTIONS, **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        LeRobotWriter(tmp_path / "file" / "d", state_names=[], **OPTIONS)


def test_an_environment_state_comes_back_in_lerobot_and_in_xp_and_needs_no_camera(tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    around = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    options = {**OPTIONS, "cameras": {}, "state_names": ["s"], "environment_state_names": ["cube.x", "cube.y"]}
    with LeRobotWriter(tmp_path / "d", **options) as writer:
        with pytest.raises(UserError, match="environment state"):
            writer.add_episode("t", {}, np.zeros((4, 1)), np.ones((4, 2)))
        writer.add_episode("t", {}, np.zeros((4, 1)), np.ones((4, 2)), environment_state=around)
    theirs: Any = LeRobotDataset("local/x", root=tmp_path / "d")
    assert theirs.meta.features["observation.environment_state"]["names"] == ["cube.x", "cube.y"]
    np.testing.assert_array_equal(np.stack([row["observation.environment_state"] for row in theirs]), around)
    dataset = open_dataset(tmp_path / "d")
    np.testing.assert_array_equal(dataset.environment_state, around)
    assert dataset.info.environment_state_names == ("cube.x", "cube.y") and not dataset.cameras
