"""Subsets as datasets of their own: LeRobot opens them, and every row and pixel is the source's."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_written import CAMERAS, LENGTHS

from xp.data import compute_statistics, open_dataset
from xp.data.lerobot.export import export_episodes
from xp.data.lerobot.frames import iter_frames
from xp.data.lerobot.remux import cut
from xp.data.lerobot.stored import open_stored
from xp.errors import UserError

CHOSEN = (0, 2, 4)


def rows_of(episodes):
    starts = np.cumsum([0, *LENGTHS])
    return np.concatenate([np.arange(starts[e], starts[e + 1]) for e in episodes])


def frames_of(dataset, camera):
    size = dataset.cameras[camera][:2]
    frames = np.zeros((dataset.num_frames, *size, 3), np.uint8)
    for rows, pixels in iter_frames(dataset, camera, size, "pyav"):
        frames[rows] = pixels
    return frames


def same_as_source(source_root, target, episodes):
    """The exported dataset holds the rows and pixels of the chosen episodes, bit for bit."""
    source, written = open_dataset(source_root), open_dataset(target)
    rows = rows_of(episodes)
    assert np.array_equal(written.action, source.action[rows])
    assert np.array_equal(written.state, source.state[rows])
    assert [written.episodes.tasks[e] for e in range(len(episodes))] == [source.episodes.tasks[e] for e in episodes]
    for camera in CAMERAS:
        assert np.array_equal(frames_of(written, camera), frames_of(source, camera)[rows])
    return written


@pytest.mark.parametrize("kind", ["image_set", "video_set", "parts_set"])
def test_every_row_and_pixel_is_the_sources(kind, request, tmp_path):
    root = request.getfixturevalue(kind).root
    export_episodes(open_stored(root), CHOSEN, tmp_path / "subset")
    same_as_source(root, tmp_path / "subset", CHOSEN)


def test_lerobot_opens_a_subset_and_gives_the_sources_frames(video_set, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    export_episodes(open_stored(video_set.root), CHOSEN, tmp_path / "subset")
    subset = LeRobotDataset("local/subset", root=tmp_path / "subset", video_backend="pyav")
    source = LeRobotDataset("local/source", root=video_set.root, video_backend="pyav")
    rows = rows_of(CHOSEN)
    assert (subset.num_episodes, len(subset)) == (len(CHOSEN), len(rows))
    for place in (0, 8, len(rows) - 1):
        ours, theirs = subset[place], source[int(rows[place])]
        assert ours["task"] == theirs["task"]
        assert all(bool((ours[key] == theirs[key]).all()) for key in ("action", "observation.images.top"))


def test_statistics_are_those_of_the_subset(video_set, tmp_path):
    export_episodes(open_stored(video_set.root), CHOSEN, tmp_path / "subset")
    written = json.loads((tmp_path / "subset/meta/stats.json").read_text())
    actions = video_set.action[rows_of(CHOSEN)].astype(np.float64)
    assert np.allclose(written["action"]["mean"], actions.mean(axis=0))
    assert np.allclose(written["action"]["std"], actions.std(axis=0))
    assert np.allclose(written["action"]["q99"], np.quantile(actions, 0.99, axis=0))
    assert written["index"]["max"] == [len(actions) - 1]
    ours = compute_statistics(open_dataset(tmp_path / "subset"), range(len(CHOSEN)))
    theirs = compute_statistics(open_dataset(video_set.root), CHOSEN)
    assert np.array_equal(ours["action"]["mean"], theirs["action"]["mean"])
    episodes = pq.read_table(tmp_path / "subset/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["stats/episode_index/max"] for row in episodes] == [[0.0], [1.0], [2.0]]
    assert [row["stats/index/min"][0] for row in episodes] == [row["dataset_from_index"] for row in episodes]


def test_a_video_file_of_one_subset_is_linked_and_not_copied(video_set, tmp_path):
    everything = tuple(range(len(LENGTHS)))
    done = export_episodes(open_stored(video_set.root), everything, tmp_path / "subset")
    assert (done.linked, done.cut) == (len(CAMERAS), 0)
    for path in (tmp_path / "subset/videos").rglob("*.mp4"):
        assert path.samefile(video_set.root / path.relative_to(tmp_path / "subset"))


def test_a_cut_file_holds_the_packets_of_its_episodes_alone(video_set, tmp_path):
    done = export_episodes(open_stored(video_set.root), (1,), tmp_path / "subset")
    assert (done.linked, done.cut, done.kept_whole) == (0, len(CAMERAS), [])
    assert len(_packets(next((tmp_path / "subset/videos").rglob("*.mp4")))) == LENGTHS[1]


def test_a_span_that_begins_between_key_frames_takes_the_frames_before_it_along(video_set, tmp_path):
    source = next((video_set.root / "videos").rglob("*.mp4"))
    key, between = [time for time, is_key in _packets(source) if is_key][1], 0.1
    (start,) = cut(source, [(key + between, key + between + 0.3)], tmp_path / "cut.mp4", 10)
    packets = _packets(tmp_path / "cut.mp4")
    assert packets[0] == (0.0, True)
    assert start == pytest.approx(between)
    assert len(packets) == 4


def test_where_no_cut_is_possible_the_file_is_linked_whole(video_set, tmp_path, monkeypatch):
    monkeypatch.setattr("xp.data.lerobot.export.cut", lambda *a: None)
    done = export_episodes(open_stored(video_set.root), CHOSEN, tmp_path / "subset")
    assert len(done.kept_whole) == len(CAMERAS)
    same_as_source(video_set.root, tmp_path / "subset", CHOSEN)


def test_an_older_dataset_is_read_and_its_videos_are_linked(video_set, tmp_path):
    root = older(video_set.root, tmp_path / "v21")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    done = export_episodes(open_stored(root), CHOSEN, tmp_path / "subset")
    assert (done.linked, done.cut) == (len(CHOSEN) * len(CAMERAS), 0)
    same_as_source(video_set.root, tmp_path / "subset", CHOSEN)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_folder_that_is_there_is_left_alone(image_set, tmp_path):
    (tmp_path / "subset").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_episodes(open_stored(image_set.root), CHOSEN, tmp_path / "subset")
    assert not list((tmp_path / "subset").iterdir())


def test_missing_rows_are_named_and_nothing_is_left(image_set, tmp_path):
    root = shutil.copytree(image_set.root, tmp_path / "damaged")
    (path,) = (root / "data").rglob("*.parquet")
    pq.write_table(pq.read_table(path).slice(0, 20), path)
    with pytest.raises(UserError, match="holds 4 rows of episode 2"):
        export_episodes(open_stored(root), CHOSEN, tmp_path / "subset")
    assert not (tmp_path / "subset").exists()


def _packets(path):
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(round(float(p.pts * stream.time_base), 6), p.is_keyframe) for p in container.demux(stream) if p.size]


def older(source, root):
    """The dataset `source` in LeRobot's format v2.1: a parquet file and an mp4 per episode, tables as JSON lines."""
    stored = open_stored(source)
    info = {**stored.info, "codebase_version": "v2.1", "total_chunks": 1, "total_videos": 2 * len(stored.episodes)}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    lines: dict[str, list] = {"episodes": [], "episodes_stats": [], "tasks": []}
    for number, task in enumerate(stored.tasks):
        lines["tasks"].append({"task_index": number, "task": task})
    for episode in stored.episodes:
        table = pq.read_table(episode.data).slice(episode.start, episode.length)
        pq.write_table(table, root / f"data/chunk-000/episode_{episode.number:06d}.parquet")
        for key, clip in episode.clips.items():
            target = root / f"videos/chunk-000/{key}/episode_{episode.number:06d}.mp4"
            assert cut(clip.path, [(clip.start, clip.end)], _parent(target), stored.fps) == [pytest.approx(0)]
        lines["episodes"].append(
            {"episode_index": episode.number, "tasks": list(episode.tasks), "length": episode.length}
        )
        lines["episodes_stats"].append({"episode_index": episode.number, "stats": episode.stats})
    for name, content in lines.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + os.linesep for line in content))
    return root


def _parent(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
