"""Rows, tasks and names that are odd: what LeRobot reads of them, or one refusal that names file, column and row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_odd import CAMERA, DATA, cells, picture, write_odd

from xp.config.dataset_facts import choose_tasks, dataset_facts
from xp.data import open_dataset
from xp.errors import UserError

ROWS = np.arange(21, dtype=np.float32).reshape(7, 3)


def refusal(root) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lists(rows, kind=None) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32()) if kind is None else kind)


WHOLE = {
    "list": pa.list_(pa.float32()),
    "large list": pa.large_list(pa.float32()),
    "fixed list": pa.list_(pa.float32(), 3),
    "float64": pa.list_(pa.float64()),
    "float16": pa.list_(pa.float16()),
    "int64": pa.list_(pa.int64()),
    "uint8": pa.list_(pa.uint8()),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_vector_is_read_whatever_list_it_is_stored_in(tmp_path, kind):
    dataset = open_dataset(write_odd(tmp_path / "d", action=pa.array(ROWS.astype(int).tolist(), WHOLE[kind])))
    np.testing.assert_array_equal(dataset.action, ROWS)
    assert dataset.action.dtype == np.float32


def test_a_vector_of_booleans_is_zeros_and_ones(tmp_path):
    rows = [[True, False, True]] * 7
    assert open_dataset(write_odd(tmp_path / "d", action=pa.array(rows))).action.tolist() == [[1, 0, 1]] * 7


@pytest.mark.parametrize("name", ["action", "observation.state", "observation.environment_state"])
@pytest.mark.parametrize("kind", ["list", "large list"])
def test_rows_of_other_widths_do_not_shift_into_each_other(tmp_path, name, kind):
    rows = ROWS.tolist()
    rows[3], rows[4] = rows[3][:2], [*rows[4], 9.0]  # as many numbers as announced
    feature = {name: {"dtype": "float32", "shape": [3], "names": None}}
    root = write_odd(tmp_path / "d", columns={name: pa.array(rows, WHOLE[kind])}, features=feature)
    message = refusal(root)
    assert f"'{name}'" in message and DATA in message and "row 3" in message and "2 numbers" in message


ODD_ROWS = {
    "a null row": (lists([*ROWS[:5].tolist(), None, ROWS[6].tolist()]), "null) in row 5"),
    "a null number": (lists([*ROWS[:5].tolist(), [1, None, 3], ROWS[6].tolist()]), "row 5, dimension 1"),
    "a null row of a fixed list": (
        pa.array([*ROWS[:5].tolist(), None, ROWS[6].tolist()], pa.list_(pa.float32(), 3)),
        "null) in row 5",
    ),
    "fixed lists of another width": (pa.array([[1.0, 2.0]] * 7, pa.list_(pa.float32(), 2)), "2 numbers in row 0"),
    "lists of lists": (pa.array([[[1.0], [2.0], [3.0]]] * 7), "list<element: double>"),
    "texts": (pa.array([["a", "b", "c"]] * 7), "string"),
    "structs": (pa.array([{"x": 1.0}] * 7), "struct"),
    "plain numbers": (pa.array(np.zeros(7, np.float32)), "no vectors of 3"),
    "beyond float32": (pa.array([[1e39, 0, 0]] * 7), "inf"),
}


@pytest.mark.parametrize("case", ODD_ROWS)
def test_what_is_no_vector_of_that_width_is_refused_with_file_column_and_row(tmp_path, case):
    action, said = ODD_ROWS[case]
    message = refusal(write_odd(tmp_path / "d", action=action))
    assert said in message and "action" in message


def test_a_row_is_found_in_whatever_row_group_it_stands(tmp_path):
    root = write_odd(tmp_path / "d", lengths=(100,))
    table = pq.read_table(root / DATA)
    rows = table.column("action").to_pylist()
    rows[77] = rows[77][:1]
    pq.write_table(table.set_column(0, "action", lists(rows)), root / DATA, row_group_size=10)
    assert "row 77" in refusal(root)


@pytest.mark.parametrize("name", ["index", "episode_index", "frame_index", "task_index"])
@pytest.mark.parametrize("values", [[0, 1, 2, None, 4, 5, 6], [0.0] * 7, ["0"] * 7, [[0]] * 7])
def test_a_number_that_is_null_or_no_whole_number_is_refused(tmp_path, name, values):
    message = refusal(write_odd(tmp_path / "d", columns={name: pa.array(values)}))
    assert f"'{name}'" in message and DATA in message


def test_a_column_that_stands_twice_is_refused(tmp_path):
    root = write_odd(tmp_path / "d")
    table = pq.read_table(root / DATA)
    pq.write_table(table.append_column("action", table.column("action")), root / DATA)
    assert "'action' twice" in refusal(root)


def test_a_task_without_text_is_refused(tmp_path):
    root = write_odd(tmp_path / "d", tasks=pa.table({"task_index": [0, 1], "task": ["a", None]}))
    message = refusal(root)
    assert "no text" in message and "row 1" in message and "tasks.parquet" in message


def test_an_empty_text_is_a_text(tmp_path):
    assert open_dataset(write_odd(tmp_path / "d", tasks=pa.table({"task_index": [0], "task": [""]}))).tasks == [""]


TASKS = {
    "a number twice": ({"task_index": [0, 0], "task": ["a", "b"]}, "0 twice"),
    "a gap": ({"task_index": [0, 2], "task": ["a", "b"]}, "number its tasks"),
    "a null number": ({"task_index": [0, None], "task": ["a", "b"]}, "null"),
    "numbers for texts": ({"task_index": [0], "task": [7]}, "int64"),
    "no texts": ({"task_index": [0]}, "no columns"),
    "bytes": ({"task_index": [0], "task": pa.array([b"\xff\xfe"])}, "binary"),
}


@pytest.mark.parametrize("case", TASKS)
def test_tasks_that_cannot_be_told_apart_are_refused(tmp_path, case):
    table, said = TASKS[case]
    assert said in refusal(write_odd(tmp_path / "d", tasks=pa.table(table)))


@pytest.mark.parametrize("task", [-1, 1, 2**40])
def test_a_task_outside_of_the_table_is_refused_with_its_row(tmp_path, task):
    message = refusal(write_odd(tmp_path / "d", columns={"task_index": np.array([0, 0, 0, 0, 0, task, 0])}))
    assert f"task {task} in row 5" in message


def test_tasks_count_by_their_number_and_not_by_their_place(tmp_path):
    root = write_odd(tmp_path / "d", tasks=pa.table({"task_index": [1, 0], "task": ["second", "first"]}))
    assert open_dataset(root).tasks == ["first", "second"]


@pytest.mark.parametrize("name", ["task", None])
def test_tasks_as_the_index_of_a_pandas_table_are_read(tmp_path, name):
    import pandas

    root = write_odd(tmp_path / "d")
    index = pandas.Index(["push", "pull"], name=name)
    pandas.DataFrame({"task_index": [0, 1]}, index=index).to_parquet(root / "meta" / "tasks.parquet")
    assert open_dataset(root).tasks == ["push", "pull"] == list(dataset_facts(str(root)).tasks)


NAMES = {
    "none": (None, None),
    "a list": (["a", "b", "c"], "abc"),
    "a group": ({"motors": ["a", "b", "c"]}, "abc"),
    "groups": ({"left": ["a"], "right": ["b", "c"]}, "abc"),
    "a list in a list": ([["a", "b", "c"]], "abc"),
    "name to index": ({"b": 1, "a": 0, "c": 2}, "abc"),
    "name to index in a group": ({"motors": {"c": 2, "a": 0, "b": 1}}, "abc"),
    "name to index in groups": ({"right": {"c": 2}, "left": {"b": 1, "a": 0}}, "abc"),
    "an empty group": ({"motors": None}, None),
    "an empty list": ([], None),
    "too few": (["a", "b"], None),
    "too many": (["a", "b", "c", "d"], None),
    "indices from 1": ({"a": 1, "b": 2, "c": 3}, None),
    "an index twice": ({"a": 0, "b": 1, "c": 1}, None),
    "flags": ({"a": True, "b": False, "c": True}, None),
    "one text": ("abc", None),
    "a group of a text": ({"motors": "abc"}, None),
}


@pytest.mark.parametrize("form", NAMES)
def test_names_of_dimensions_are_read_in_every_form_or_made_up(tmp_path, form):
    names, expected = NAMES[form]
    root = write_odd(tmp_path / "d", action_feature={"dtype": "float32", "shape": [3], "names": names})
    made_up = ("action_0", "action_1", "action_2")
    assert open_dataset(root).action_names == (tuple(expected) if expected else made_up)


def test_a_name_that_is_null_is_made_up_and_the_others_stay(tmp_path):
    root = write_odd(tmp_path / "d", action_feature={"dtype": "float32", "shape": [3], "names": ["a", None, "c"]})
    assert open_dataset(root).action_names == ("a", "action_1", "c")


def test_two_features_that_are_one_camera_are_refused(tmp_path):
    feature = {"dtype": "image", "shape": [32, 24, 3], "names": ["height", "width", "channels"]}
    two = {"observation.image": feature, "observation.images.image": feature}
    files = cells([picture(np.zeros((32, 24, 3), np.uint8))] * 7)
    message = refusal(write_odd(tmp_path / "d", columns=dict.fromkeys(two, files), features=two))
    assert "observation.image'" in message and "observation.images.image'" in message and "'image'" in message


def test_checks_before_a_run_know_the_cameras_that_the_dataset_has(tmp_path):
    feature = {"dtype": "image", "shape": [32, 24, 3], "names": ["height", "width", "channels"]}
    depth = {**feature, "info": {"is_depth_map": True}}
    features = {CAMERA: feature, "observation.images.depth": depth, "observation.image": feature, "heat": feature}
    files = cells([picture(np.zeros((32, 24, 3), np.uint8))] * 7)
    root = write_odd(tmp_path / "d", columns=dict.fromkeys(features, files), features=features)
    assert list(dataset_facts(str(root)).cameras) == list(open_dataset(root).cameras) == ["top", "image"]


KNOWN = ("push the cube", "pull it", "0")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [([0], KNOWN[:1]), (["0"], KNOWN[2:]), (["pu*"], KNOWN[:2]), ([1, "0"], KNOWN[1:]), ("pull it", KNOWN[1:2])],
)
def test_tasks_are_chosen_by_text_pattern_or_number(wanted, found):
    assert choose_tasks("data.tasks", wanted, KNOWN, "D") == list(found)


@pytest.mark.parametrize("wanted", [[True], [1.0], [None], [3], [-1], ["fold"], [["push the cube"]], [{}]])
def test_what_names_no_task_is_refused_with_the_tasks_there_are(wanted):
    with pytest.raises(UserError, match=r"data\.tasks.*0: 'push the cube', 1: 'pull it'") as caught:
        choose_tasks("data.tasks", wanted, KNOWN, "D")
    assert "\n" not in str(caught.value)
