"""A dataset from somebody else is only data: it names nothing outside, and costs what its size explains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_odd import CAMERA, DATA, EPISODES, cells, picture, with_pictures, with_video, write_odd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xp.config.dataset_facts import dataset_facts
from xp.data import open_dataset
from xp.data.lerobot.export import export_episodes
from xp.data.lerobot.stored import format_of, open_stored
from xp.errors import UserError


def change(root: Path, **changes) -> Path:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return root


def refusal(root: Path) -> str:
    """What every way of opening the dataset says; none of them with a traceback."""
    with pytest.raises(UserError) as caught:
        open_dataset(root)
    opened_or_refused(root)
    dataset_facts(str(root))
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < 2000
    return message


@pytest.mark.parametrize(
    "key", ["observation.images.x/../../../ESC", "../x", "a/b", ".hidden", "a\0b", "a\x1b[2Jb", "", "x" * 300]
)
def test_a_feature_whose_name_would_be_a_path_is_refused(tmp_path, key):
    root = write_odd(tmp_path / "d")
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    change(root, features={**features, key: {"dtype": "video", "shape": [8, 8, 3], "names": None}})
    assert "feature" in refusal(root)


PATTERNS = [
    "../{chunk_index:03d}/{file_index:03d}.parquet",
    "/etc/passwd",
    "data/../../outside.parquet",
    "data/{chunk_index:01000000000d}",
    "data/{chunk_index:{file_index}}",
    "data/{chunk_index.__class__}",
    "data/{chunk_index[0]}",
    "data/{chunk_index!r}",
    "data/{episode_index}",
    "data/{0}",
    "data/{}",
    "data/{chunk_index",
    "data/\0",
    "x" * 5000,
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_of_paths_names_places_inside_the_folder_alone(tmp_path, pattern):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "outside.parquet")
    assert "data_path" in refusal(change(write_odd(tmp_path / "d"), data_path=pattern))


@pytest.mark.parametrize(
    "pattern", ["../{video_key}.mp4", "videos/{video_key:09999d}.mp4", "videos/{video_key.x}", "/x.mp4"]
)
def test_a_pattern_of_videos_names_places_inside_the_folder_alone(tmp_path, pattern):
    root = with_video(tmp_path / "d", [i / 10 for i in range(7)])
    assert "video_path" in refusal(change(root, video_path=pattern))


@pytest.mark.parametrize("name", [DATA, EPISODES, "meta/tasks.parquet", "meta/info.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link that leads out", "a link to itself", "a folder"])
def test_what_is_no_file_of_the_dataset_is_refused_at_once(tmp_path, name, kind):
    root = write_odd(tmp_path / "d")
    path = root / name
    (tmp_path / "outside").write_bytes(path.read_bytes())
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to({"a device": "/dev/zero", "a link to itself": path}.get(kind, tmp_path / "outside"))
    assert format_of(root) in ("", "v3.0")
    refusal(root)


def test_a_video_that_is_a_pipe_is_refused_at_once(tmp_path):
    root = with_video(tmp_path / "d", [i / 10 for i in range(7)])
    path = next(root.glob("videos/*/*/*.mp4"))
    path.unlink()
    os.mkfifo(path)
    assert "pipe" in refusal(root)


SHAPES = [
    [10**12],
    [2**62, 2**62],
    [-3],
    [0],
    [3.0],
    ["3"],
    [True],
    [],
    [[3]],
    {"a": 3},
    "3",
    None,
    [1] * 40,
    [10**400],
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_checked_before_anything_is_allocated(tmp_path, shape):
    assert "shape" in refusal(
        write_odd(tmp_path / "d", action_feature={"dtype": "float32", "shape": shape, "names": None})
    )


@pytest.mark.parametrize("shape", [[10**6, 10**6, 3], [8, 8], [0, 8, 3], [8, 8, 3, 3], [8], [2**40, 1, 1]])
def test_a_picture_of_an_impossible_shape_is_refused(tmp_path, shape):
    if shape == [8, 8]:
        shape = [2**20, 2**20]
    feature = {"dtype": "image", "shape": shape, "names": None}
    files = cells([picture(np.zeros((8, 8, 3), np.uint8))] * 7)
    assert "shape" in refusal(write_odd(tmp_path / "d", columns={CAMERA: files}, features={CAMERA: feature}))


INFOS = {
    "fps": [0, -1, "10", float("nan"), float("inf"), None, True, 1e300, [10]],
    "total_frames": [-1, 1.5, "7", 8, 2**70, [7]],
    "total_episodes": [-1, "2", 1e99],
    "features": [
        None,
        [],
        {},
        "x",
        {"action": 3},
        {"action": []},
        {"action": {"dtype": 3, "shape": [3]}},
    ],
    "codebase_version": [3, [], {"v": 3}, "v" * 1000],
    "robot_type": [3, {}, ["x"]],
    "data_path": [3, [], {"a": 1}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in INFOS.items() for value in values])
def test_a_field_of_another_type_or_size_is_refused_by_its_name(tmp_path, key, value):
    refusal(change(write_odd(tmp_path / "d"), **{key: value}))


def hostile(kind: str, root: Path) -> Path:
    """Folders of a few kilobytes that ask for gigabytes."""
    if kind == "40 million tasks":
        write_odd(root)
        path, schema = root / "meta" / "tasks.parquet", pa.schema([("task_index", pa.int64()), ("task", pa.string())])
        coded = {"column_encoding": {"task_index": "DELTA_BINARY_PACKED"}, "use_dictionary": ["task"]}
        with pq.ParquetWriter(path, schema, compression="zstd", **coded) as writer:
            for start in range(0, 40_000_000, 4_000_000):
                numbers = pa.array(np.arange(start, start + 4_000_000))
                texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4_000_000, np.int8)), pa.array(["x"]))
                writer.write_table(pa.table({"task_index": numbers, "task": texts.cast(pa.string())}))
    elif kind == "a long text of a million tasks":
        texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["x" * 4_000_000]))
        write_odd(root, tasks=pa.table({"task_index": np.arange(1000), "task": texts}))
        table = pa.table({"task_index": np.arange(1000), "task": texts})
        pq.write_table(table, root / "meta" / "tasks.parquet", compression="zstd", use_dictionary=True)
    elif kind == "a billion rows":
        n = 50_000_000
        zeros = pa.array(np.zeros(n, np.int64))
        write_odd(root, info={"total_frames": n})
        pq.write_table(pa.table({name: zeros for name in ("episode_index", "frame_index", "index", "task_index")}),
                       root / DATA, compression="zstd", row_group_size=n)  # fmt: skip
    elif kind == "a picture of 12000 x 12000":
        files = [picture(np.zeros((12_000, 12_000), np.uint8), compress_level=9)] * 40
        with_pictures(root, files, (32, 24, 3))
    elif kind == "a picture that is announced so large":
        files = [picture(np.zeros((5700, 5700, 3), np.uint8), compress_level=9)] * 40
        with_pictures(root, files, (5700, 5700, 3))
    elif kind == "a wide video":
        with_video(root, [i / 10 for i in range(7)])
        grey_large = root / "videos" / CAMERA / "chunk-000" / "file-000.mp4"
        from data_odd import grey_mp4

        grey_mp4(grey_large, [0.0], (4096, 4096))
    elif kind == "deep JSON":
        write_odd(root)
        (root / "meta" / "info.json").write_text("[" * 5_000_000)
    elif kind == "large JSON":
        write_odd(root)
        with (root / "meta" / "info.json").open("wb") as file:
            file.truncate(3_000_000_000)
    return root


KINDS = [
    "40 million tasks", "a long text of a million tasks", "a billion rows", "a picture of 12000 x 12000",
    "a picture that is announced so large", "a wide video", "deep JSON", "large JSON",
]  # fmt: skip

READ = """
import resource, sys
from xp.data import open_dataset
from xp.config.dataset_facts import dataset_facts
from xp.data.lerobot.frames import iter_frames
from xp.errors import UserError
import pyarrow.parquet, PIL.Image, av, numpy
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
dataset_facts(sys.argv[1])
try:
    dataset = open_dataset(sys.argv[1])
    for name, (h, w, _) in dataset.cameras.items():
        for rows, frames in iter_frames(dataset, name, (16, 16), "pyav"):
            break
except UserError as error:
    print("refused:", error)
else:
    print("read")
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_folder_that_asks_for_gigabytes_is_refused_or_read_within_its_bounds(tmp_path, kind):
    root = hostile(kind, tmp_path / "d")
    command = [sys.executable, "-c", READ, str(root), str(2_000_000_000)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and len(said) == 1, done.stderr[-2000:]
    assert "Warning" not in done.stderr
    assert said[0].startswith("read" if kind == "a picture that is announced so large" else "refused: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(node, at=()):
    """The path of every value in a tree."""
    yield at
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield from places(child, (*at, key))


def replaced(node, at, value):
    if not at:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    if value is ... and len(at) == 1:
        del copy[at[0]]
        return copy
    copy[at[0]] = replaced(node[at[0]], at[1:], value)
    return copy


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset with a video, to be damaged."""
    return with_video(tmp_path_factory.mktemp("whole") / "d", [i / 10 for i in range(7)])


def opened_or_refused(root: Path) -> None:
    for opening in (open_dataset, open_stored, lambda folder: dataset_facts(str(folder)), format_of):
        try:
            opening(root)
        except UserError as error:
            assert "\n" not in str(error) and str(error).isprintable()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_info_json_is_read_or_refused(whole, data):
    path = whole / "meta" / "info.json"
    good = path.read_text()
    content = json.loads(good)
    try:
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.sampled_from(list(places(content))))
            content = replaced(content, at, data.draw(st.just(...) | JSON if at else JSON))
        path.write_text(json.dumps(content))
        opened_or_refused(whole)
    finally:
        path.write_text(good)


VALUES = {
    "int64": st.integers(-(2**40), 2**40),
    "float64": st.floats(),
    "string": st.text(max_size=4),
    "bool": st.booleans(),
    "list<double>": st.lists(st.floats(), max_size=4),
    "list<string>": st.lists(st.text(max_size=3), max_size=3),
    "list<list<int>>": st.lists(st.lists(st.integers(-5, 5), max_size=3), max_size=3),
    "binary": st.binary(max_size=4),
    "struct": st.fixed_dictionaries({"bytes": st.binary(max_size=3), "path": st.text(max_size=3)}),
}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_column_of_any_table_is_read_or_refused(whole, data):
    path = whole / data.draw(st.sampled_from([DATA, EPISODES, "meta/tasks.parquet"]))
    good = path.read_bytes()
    try:
        table = pq.read_table(path)
        place = data.draw(st.integers(0, table.num_columns - 1))
        kind = data.draw(st.sampled_from(list(VALUES)))
        cell = VALUES[kind] | st.none()
        column = pa.array(data.draw(st.lists(cell, min_size=len(table), max_size=len(table))))
        pq.write_table(table.set_column(place, table.column_names[place], column), path)
        opened_or_refused(whole)
    finally:
        path.write_bytes(good)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damaged_bytes_are_read_or_refused(whole, data):
    path = whole / data.draw(st.sampled_from([DATA, EPISODES, "meta/tasks.parquet", "meta/info.json"]))
    good = path.read_bytes()
    try:
        at, size = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 9))
        path.write_bytes(good[:at] + data.draw(st.binary(max_size=9)) + good[at + size :])
        opened_or_refused(whole)
    finally:
        path.write_bytes(good)


def test_an_export_writes_into_its_folder_alone(tmp_path):
    root = with_video(tmp_path / "d", [i / 10 for i in range(7)])
    before = {path for path in tmp_path.rglob("*")}
    export_episodes(open_stored(root), [1], tmp_path / "out")
    new = {path for path in tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)


BAD_STATS = {
    "a negative std": {"std": [-1.0]},
    "no count": {"count": None},
    "NaN": {"mean": [float("nan")]},
    "another shape": {"std": [1.0, 2.0]},
    "quantiles in the wrong order": {"q01": [3.0], "q99": [1.0]},
}


@pytest.mark.parametrize("case", BAD_STATS)
def test_statistics_of_an_episode_that_cannot_be_right_are_not_pooled(tmp_path, case):
    entry = {"min": [0.0], "max": [2.0], "mean": [1.0], "std": [1.0], "count": [3], **BAD_STATS[case]}
    episodes = {f"stats/action/{name}": [value, value] for name, value in entry.items() if value is not None}
    root = write_odd(tmp_path / "d", episodes=episodes)
    with pytest.raises(UserError, match="'action' in episode 0"):
        export_episodes(open_stored(root), [0], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


@pytest.mark.parametrize("key", ["chunks_size", "data_files_size_in_mb"])
@pytest.mark.parametrize("value", ["x", [], -1, float("nan")])
def test_sizes_of_files_that_are_no_numbers_are_refused_by_an_export(tmp_path, key, value):
    root = change(write_odd(tmp_path / "d"), **{key: value})
    with pytest.raises(UserError, match=key):
        export_episodes(open_stored(root), [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def as_v21(root: Path) -> Path:
    """The same rows in the older format, one file an episode."""
    table = pq.read_table(root / DATA)
    (root / DATA).unlink()
    lengths = [3, 4]
    for number, start in enumerate((0, 3)):
        path = root / "data" / "chunk-000" / f"episode_{number:06d}.parquet"
        pq.write_table(table.slice(start, lengths[number]), path)
    lines = {
        "episodes": [{"episode_index": i, "tasks": ["do it"], "length": n} for i, n in enumerate(lengths)],
        "tasks": [{"task_index": 0, "task": "do it"}],
        "episodes_stats": [{"episode_index": i, "stats": {}} for i in range(2)],
    }
    for name, objects in lines.items():
        (root / "meta" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in objects))
    info = json.loads((root / "meta" / "info.json").read_text())
    return change(root, **{**info, "codebase_version": "v2.1", "chunks_size": 1000})


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    return as_v21(write_odd(tmp_path_factory.mktemp("older") / "d"))


def test_the_older_format_is_exported(older, tmp_path):
    export_episodes(open_stored(older), [1], tmp_path / "out")
    assert open_dataset(tmp_path / "out").action.tolist() == np.arange(21).reshape(7, 3)[3:].tolist()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_the_older_formats_lines_is_read_or_refused(older, data):
    path = older / "meta" / data.draw(st.sampled_from(["episodes.jsonl", "tasks.jsonl", "episodes_stats.jsonl"]))
    good = path.read_text()
    lines = [json.loads(line) for line in good.splitlines()]
    try:
        at = data.draw(st.sampled_from(list(places(lines[0]))))
        lines[0] = replaced(lines[0], at, data.draw(st.just(...) | JSON if at else JSON))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        opened_or_refused(older)
    finally:
        path.write_text(good)
