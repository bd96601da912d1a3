"""LeRobot's formats v2.0 and v2.1 are read as they are: the rows, frames and tasks of the same episodes in v3.0."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from data_older import as_older
from data_small import write_small
from data_videos import moving, write_videos

from xp.config.dataset_facts import find_format
from xp.config.mixture import read_mix
from xp.data import Batches, Windows, open_dataset
from xp.data.exporting import open_exportable
from xp.data.frames import frames_of
from xp.data.lerobot import older, reader
from xp.data.mixture.weights import episode_weights
from xp.data.splits import Split
from xp.errors import UserError
from xp.tasks._lib.data_source import TrainedData, _refuse_replaced

SIZES = {"top": (32, 48), "wrist": (16, 24)}


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("today") / "d", files=((0,), (1,), (2,)), codec="mpeg4", g="3")


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
@pytest.mark.parametrize("mode", ["cache", "stream"])
def test_an_older_folder_gives_the_batches_of_todays(today, tmp_path, version, mode):
    found = []
    for root in (today, as_older(today, tmp_path / "older", version)):
        dataset = open_dataset(root, decoder="pyav")
        frames = frames_of(dataset, SIZES, mode=mode, workers=1, cache_dir=tmp_path / "cache", cache_gb=1)
        windows = Windows(dataset, frames, [0, 1, 2], history=2, horizon=2)
        found.append([Batches(windows, batch_size=8, seed=1).at(step) for step in range(3)])
    for one, other in zip(*found, strict=True):
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)


def with_quality(root, values):
    """The folder of v2 with a number more in each line of its episodes."""
    path = root / "meta" / "episodes.jsonl"
    lines = [{**json.loads(line), **value} for line, value in zip(path.read_text().splitlines(), values, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    return root


def test_a_field_of_an_older_folders_episodes_weighs_them(today, tmp_path):
    qualities = [{"quality": 0.5, "kept": True}, {"quality": 0, "kept": False}, {"quality": 2, "kept": True}]
    root = with_quality(as_older(today, tmp_path / "older", "v2.1"), qualities)
    dataset = open_dataset(root)
    for name, weights in {"quality": [0.5, 0, 2], "kept": [1, 0, 1]}.items():
        (member,) = read_mix({"a": {"root": str(root), "episode_weights": f"column:{name}"}})
        np.testing.assert_array_equal(episode_weights(member, dataset), weights)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{}, {}, {}], "no field of numbers 'quality'.*length.*JSON file"),
        ([{"qualty": 1}, {}, {}], "did you mean 'qualty'"),
        ([{"quality": 1}, {}, {"quality": 1}], "quality"),
        ([{"quality": 1}, {"quality": "good"}, {"quality": 1}], "quality is 'good'"),
    ],
)
def test_a_field_that_is_no_weight_is_refused(today, tmp_path, values, said):
    dataset = open_dataset(with_quality(as_older(today, tmp_path / "older", "v2.1"), values))
    with pytest.raises(UserError, match=said):
        dataset.episode_column("quality")


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_pictures_of_an_older_folder_are_those_of_todays(tmp_path, version):
    source = write_small(tmp_path / "d", images={"observation.images.top": moving(7, (8, 8))})
    found = []
    for root in (source, as_older(source, tmp_path / "older", version)):
        dataset = open_dataset(root)
        assert (dataset.tasks, dataset.episodes.lengths.tolist()) == (["do it"], [3, 4])
        frames = frames_of(dataset, {"top": (8, 8)}, mode="stream", workers=1, cache_dir=tmp_path, cache_gb=1)
        found.append(frames["top"].frames(np.array([[6, 2, 3]])))
    np.testing.assert_array_equal(*found)


def test_numbers_of_an_older_folder_are_mapped_and_its_videos_not_looked_into_again(today, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "SMALL", 0)
    root = as_older(today, tmp_path / "older", "v2.1")
    first = open_dataset(root, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(reader, "check_mp4", None)  # who looked again would fail
    second = open_dataset(root, cache_dir=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint == open_dataset(root, cache_dir=tmp_path / "cache").fingerprint
    np.testing.assert_array_equal(first.action, second.action)


def test_what_is_checked_before_a_run_is_found_in_older_folders_too(today, tmp_path):
    root = as_older(today, tmp_path / "older", "v2.1")
    found = find_format(root)
    assert found is not None
    assert found.facts(root) == found.facts(today)


@pytest.mark.parametrize("name", ["tasks", "episodes"])
def test_a_missing_list_is_named(today, tmp_path, name):
    root = as_older(today, tmp_path / "older", "v2.0")
    (root / "meta" / f"{name}.jsonl").unlink()
    with pytest.raises(UserError, match=f"{name}.jsonl"):
        open_dataset(root)


def test_a_missing_video_and_a_missing_episode_are_named(today, tmp_path):
    root = as_older(today, tmp_path / "older", "v2.1")
    video = next(root.glob("videos/*/*top*/episode_000001.mp4"))
    video.rename(tmp_path / "kept.mp4")
    with pytest.raises(UserError, match="episode_000001.mp4 is missing"):
        open_dataset(root)
    (tmp_path / "kept.mp4").rename(video)
    lines = (root / "meta" / "episodes.jsonl").read_text().splitlines(keepends=True)
    (root / "meta" / "episodes.jsonl").write_text("".join(lines[::2]))
    with pytest.raises(UserError, match="contradicts itself"):
        open_dataset(root)


def test_version_2_0_is_not_exported_and_says_what_to_do(today, tmp_path):
    with pytest.raises(UserError, match="v2.0.*data.split=MANIFEST.*convert"):
        open_exportable(as_older(today, tmp_path / "older", "v2.0"))


@pytest.mark.slow
def test_lerobots_own_conversion_of_a_v2_1_folder_reads_as_the_folder_itself(today, tmp_path):
    """LeRobot 0.6.1 reads v3.0 alone: its converter and its reader are the arbiter of what v2.1 means."""
    root = as_older(today, tmp_path / "older", "v2.1")
    stats = {
        name: {key: [0.0] * width for key in ("min", "max", "mean", "std")} | {"count": [1]}
        for name, width in (("action", 2), ("observation.state", 2))
    }
    (root / "meta" / "episodes_stats.jsonl").write_text(
        "".join(json.dumps({"episode_index": number, "stats": stats}) + "\n" for number in range(3))
    )
    compare_in_a_process(tmp_path, root, convert=True)


EDITS = {
    "deleted": "tools.delete_episodes(one, [1], output_dir=out)",
    "merged": "tools.merge_datasets([one, two], 'local/out', output_dir=out)",
    "split": "tools.split_dataset(one, {'a': [0, 3], 'b': [1, 2, 4]}, output_dir=out)",
    "merged and deleted": (
        "tools.delete_episodes(tools.merge_datasets([one, two], 'local/m', output_dir=out / 'm'), [0, 6], "
        "output_dir=out / 'last')"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("edit", list(EDITS))
def test_folders_that_lerobots_own_tools_have_edited_read_row_by_row_as_lerobot_reads_them(
    edit, video_set, parts_set, image_set, tmp_path
):
    for kind, written in (("videos", video_set), ("files", parts_set), ("pictures", image_set)):
        out = tmp_path / kind
        other = parts_set if kind == "videos" and "merged" not in edit else written
        code = f"""
        import sys
        from pathlib import Path
        import lerobot.datasets.dataset_tools as tools
        from lerobot.datasets.lerobot_dataset import LeRobotDataset
        one, two = (LeRobotDataset("local/x", root=root, video_backend="pyav") for root in sys.argv[1:3])
        out = Path(sys.argv[3])
        {EDITS[edit]}
        """
        in_a_process(code, written.root, other.root, out)
        edited = sorted(path.parent.parent for path in out.rglob("meta/info.json"))
        assert edited
        for root in edited:
            compare_in_a_process(tmp_path, root)


def in_a_process(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


def compare_in_a_process(tmp_path, root, convert=False):
    """Numbers, tasks and frames (of cache and stream) of `root` as xp and as LeRobot read them."""
    code = """
    import shutil, sys
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from xp.data import open_dataset
    from xp.data.frames import frames_of
    if __name__ == "__main__":
        root, cache, convert = sys.argv[1:4]
        theirs = root
        if convert == "True":
            from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset
            theirs = f"{cache}-converted"
            shutil.copytree(root, theirs)
            convert_dataset("local/x", root=theirs, push_to_hub=False)
        lerobot = LeRobotDataset("local/x", root=theirs, video_backend="pyav", return_uint8=True)
        dataset = open_dataset(root, decoder="pyav")
        assert dataset.num_frames == len(lerobot), (dataset.num_frames, len(lerobot))
        sizes = {name: shape[:2] for name, shape in dataset.cameras.items()}
        given = {"workers": 1, "cache_dir": cache, "cache_gb": 1}
        array = frames_of(dataset, sizes, mode="cache", **given)
        stream = frames_of(dataset, sizes, mode="stream", **given)
        rows = np.arange(len(lerobot))[:, None]
        for name in sizes:
            np.testing.assert_array_equal(stream[name].frames(rows)[:, 0], array[name])
        for row in range(len(lerobot)):
            item = lerobot[row]
            np.testing.assert_array_equal(dataset.action[row], item["action"].numpy())
            np.testing.assert_array_equal(dataset.state[row], item["observation.state"].numpy())
            assert dataset.episode_index[row] == item["episode_index"]
            assert dataset.tasks[dataset.task_index[row]] == item["task"]
            for name in sizes:
                picture = item[f"observation.images.{name}"]
                pixels = (picture * 255).round() if picture.is_floating_point() else picture
                np.testing.assert_array_equal(array[name][row], pixels.numpy().transpose(1, 2, 0).astype(np.uint8))
    """
    script = tmp_path / "compare.py"
    script.write_text(textwrap.dedent(code))
    cache = tmp_path / f"cache-{root.name}-{root.parent.name}"
    command = [sys.executable, str(script), str(root), str(cache), str(convert)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


def test_rows_and_each_camera_have_a_fingerprint_and_former_ones_are_known(today, tmp_path):
    root = as_older(today, tmp_path / "older", "v2.1")
    before = open_dataset(root)
    known = before.fingerprint, before.former_fingerprint, {name: before.camera_fingerprint(name) for name in SIZES}
    path = root / older.VIDEO.format(video_key="observation.images.top", episode_chunk=0, episode_index=0)
    content = path.read_bytes()
    path.unlink()  # a link to today's
    path.write_bytes(content + b"\0\0\0\x08free")
    after = open_dataset(root)
    assert after.fingerprint == known[0] and after.former_fingerprint != known[1]
    assert [after.camera_fingerprint(name) == known[2][name] for name in ("top", "wrist")] == [False, True]
    Split((0,), (1,), {"dataset": known[1]}).check(before)
    with pytest.raises(UserError, match="made from another dataset"):
        Split((0,), (1,), {"dataset": known[1]}).check(after)
    trained = TrainedData(str(root), known[0], 10, known[2], {})
    _refuse_replaced(tmp_path, trained, before, same=True)
    with pytest.raises(UserError, match="videos of top are others"):
        _refuse_replaced(tmp_path, trained, after, same=True)
