import shutil
import subprocess
import sys

import numpy as np
import pytest
from data_made_up import edit_info
from data_small import write_small
from data_written import CAMERAS, LENGTHS, TASKS

from xp.data import open_dataset
from xp.data.lerobot.info import dataset_info


@pytest.mark.parametrize("kind", ["image_set", "video_set", "parts_set"])
def test_what_lerobot_wrote_is_read_back_exactly(kind, request):
    written = request.getfixturevalue(kind)
    dataset = open_dataset(written.root)
    np.testing.assert_array_equal(dataset.action, written.action)
    np.testing.assert_array_equal(dataset.state, written.state)
    assert dataset.action.dtype == dataset.state.dtype == np.float32
    assert dataset.cameras == {name: (*size, 3) for name, size in CAMERAS.items()}
    assert (dataset.fps, dataset.action_dim, dataset.state_dim) == (10.0, 3, 4)
    assert dataset.episodes.lengths.tolist() == list(LENGTHS)
    assert dataset.episodes.starts.tolist() == np.cumsum([0, *LENGTHS[:-1]]).tolist()
    assert dataset.episodes.tasks == TASKS
    assert dataset.action_names == ("x", "y", "z")


def test_several_data_and_video_files_really_are_several(parts_set):
    dataset = open_dataset(parts_set.root)
    assert len(dataset.data_files) > 1
    assert all(len(parts) > 1 for parts in dataset.videos.values())
    for parts in dataset.videos.values():
        assert sorted(int(e) for part in parts for e in part.episodes) == list(range(len(LENGTHS)))


def test_rows_of_episodes_come_in_the_order_asked_for(image_set):
    dataset = open_dataset(image_set.root)
    starts, lengths = dataset.episodes.starts, dataset.episodes.lengths
    expected = [*range(starts[3], starts[3] + lengths[3]), *range(starts[0], starts[0] + lengths[0])]
    assert dataset.rows([3, 0]).tolist() == expected
    assert dataset.rows([]).tolist() == []


def test_a_dataset_without_state_has_a_state_of_no_dimensions(tmp_path):
    dataset = open_dataset(write_small(tmp_path / "d"))
    assert dataset.state.shape == (7, 0) and dataset.state_dim == 0 and dataset.state_names == ()


def test_one_dimensional_actions_stored_as_numbers_are_vectors(tmp_path):
    action = np.arange(7, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(open_dataset(write_small(tmp_path / "d", action=action)).action, action)


def test_tasks_written_by_pandas_as_an_unnamed_index_are_read(tmp_path):
    assert open_dataset(write_small(tmp_path / "d", task_column="__index_level_0__")).tasks == ["do it"]


def test_cameras_are_named_and_sized_whatever_the_axis_order(tmp_path):
    image = {"dtype": "image"}
    root = write_small(
        tmp_path / "d",
        features={
            "observation.image": {**image, "shape": [3, 48, 64], "names": ["channels", "height", "width"]},
            "observation.images.a.b": {**image, "shape": [32, 40, 3], "names": ["height", "width", "channel"]},
            "observation.images.bare": {**image, "shape": [3, 16, 24], "names": None},
            "observation.images.depth": {**image, "shape": [9, 9, 1], "names": None, "info": {"is_depth_map": True}},
            "next.image": {**image, "shape": [9, 9, 3], "names": None},
        },
    )
    assert dataset_info(root).cameras == {"image": (48, 64, 3), "a.b": (32, 40, 3), "bare": (16, 24, 3)}


def test_names_given_as_a_mapping_to_places_follow_the_places(tmp_path):
    feature = {"dtype": "float32", "shape": [2], "names": {"second": 1, "first": 0}}
    assert dataset_info(write_small(tmp_path / "d", features={"action": feature})).action_names == ("first", "second")


def test_a_copy_has_the_same_fingerprint_and_another_pixel_or_action_another(image_set, tmp_path):
    dataset = open_dataset(image_set.root)
    copy = tmp_path / "renamed"
    shutil.copytree(image_set.root, copy)
    assert open_dataset(copy).fingerprint == dataset.fingerprint
    frames = np.zeros((7, 4, 4, 3), np.uint8)
    key = "observation.images.top"
    black = open_dataset(write_small(tmp_path / "black", images={key: frames})).fingerprint
    frames[3, 0, 0, 0] = 1
    dotted = open_dataset(write_small(tmp_path / "dotted", images={key: frames})).fingerprint
    moved = open_dataset(write_small(tmp_path / "moved", images={key: frames}, action=np.ones((7, 2)))).fingerprint
    assert len({black, dotted, moved}) == 3


def test_describing_a_dataset_imports_neither_numpy_nor_pyarrow(tmp_path):
    root = write_small(tmp_path / "d")
    code = (
        "import sys; from xp.data.lerobot.info import dataset_info\n"
        "info = dataset_info(sys.argv[1]); assert info.action_dim == 2\n"
        "print(sorted({'numpy', 'pyarrow', 'torch', 'jax', 'lerobot', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_later_minor_versions_of_the_format_are_read(tmp_path):
    root = write_small(tmp_path / "d")
    edit_info(root, codebase_version="v3.1")
    assert open_dataset(root).num_frames == 7
