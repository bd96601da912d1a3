"""Of a dataset on a hub only the files that a training reads: videos of its cameras, of its episodes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_older import as_older
from data_videos import write_videos

from xp.config import result_config
from xp.config.compose import compose
from xp.data import Windows, open_dataset
from xp.data.frames import frames_of
from xp.errors import UserError
from xp.hub import inputs
from xp.hub.part import LEFT_OUT
from xp.runs import RunFolder, execute, start_run

ACT = ["task=train", "model=act_tiny"]


def video(camera: str, episode: int) -> str:
    """Of v2.1 with two episodes in a chunk."""
    return f"videos/chunk-{episode // 2:03d}/observation.images.{camera}/episode_{episode:06d}.mp4"


@pytest.fixture(scope="module")
def today(tmp_path_factory) -> Path:
    """Four episodes with two cameras, an mp4 for each."""
    root = tmp_path_factory.mktemp("today") / "d"
    return write_videos(root, lengths=(7, 9, 6, 8), files=((0,), (1,), (2,), (3,)), codec="mpeg4", g="3")


@pytest.fixture
def older(today, tmp_path) -> Path:
    """The same as v2.1, odd episodes of another task."""
    root = as_older(today, tmp_path / "older", "v2.1")
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    for line in lines[1::2]:
        line["tasks"] = ["leave it"]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (root / "meta/tasks.jsonl").open("a") as file:
        file.write('{"task_index": 1, "task": "leave it"}\n')
    return root


def begin(folder: Path, *overrides: str) -> Path:
    """Freeze a training as the command line does; gives the folder of its dataset."""
    config = compose([*ACT, f"paths.cache={folder.parent / 'cache'}", *overrides])
    run = start_run(config, folder, [], generated=False, result_config=result_config, hydra_yaml="{}")
    assert run is not None
    return Path(RunFolder(run).config().data.root)


def videos_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))


def sent(hub) -> int:
    return sum(count for name, count in hub.sent.items() if name.endswith(".mp4"))


def test_videos_of_cameras_that_the_model_does_not_look_through_stay_where_they_are(hub, older, tmp_path):
    hub.add_folder("org/name", older)
    root = begin(tmp_path / "one", "data.root=hf://org/name", "model.cameras=[top]")
    assert videos_in(root) == [video("top", n) for n in range(4)]
    assert not any("wrist" in name for name in hub.sent) and (root / LEFT_OUT).is_file()
    part, whole = open_dataset(root), open_dataset(older)
    assert part.fingerprint == whole.fingerprint and part.cameras == whole.cameras
    assert part.camera_fingerprint("top") == whole.camera_fingerprint("top") and not part.camera_fingerprint("wrist")
    before = sent(hub)
    root = begin(tmp_path / "both", "data.root=hf://org/name")
    assert videos_in(root) == videos_in(older) and not (root / LEFT_OUT).exists()
    assert sent(hub) - before == sum(path.stat().st_size for path in older.rglob("*.mp4") if "wrist" in str(path))


@pytest.mark.parametrize(
    ("more", "kept"),
    [(["data.tasks=[do it]"], [0, 2]), (["data.exclude_tasks=[do*]"], [1, 3]), (["data.split=split.json"], [0, 1])],
)
def test_videos_of_episodes_that_are_not_chosen_stay_where_they_are(hub, older, tmp_path, monkeypatch, more, kept):
    monkeypatch.chdir(tmp_path)
    Path("split.json").write_text('{"train": [0], "val": [1]}')
    hub.add_folder("org/name", older)
    root = begin(tmp_path / "run", "data.root=hf://org/name", *more)
    assert videos_in(root) == sorted(video(camera, n) for n in kept for camera in ("top", "wrist"))


def test_of_todays_format_the_files_that_hold_a_chosen_episode_are_fetched(hub, today, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("split.json").write_text('{"train": [3], "val": []}')
    hub.add_folder("org/name", today)
    root = begin(tmp_path / "run", "data.root=hf://org/name", "data.split=split.json", "model.cameras=[wrist]")
    assert videos_in(root) == ["videos/observation.images.wrist/chunk-000/file-003.mp4"]


def test_of_a_mixtures_datasets_too(hub, older, today, tmp_path):
    hub.add_folder("org/name", older)
    one, other = "root: hf://org/name, tasks: [do it], cameras: {front: wrist}", "cameras: {front: top}"
    mix = f"data.mix={{a: {{{one}}}, b: {{root: {today}, {other}}}}}"
    config = compose([*ACT, "data=mix", mix, f"paths.cache={tmp_path / 'cache'}"])
    start_run(config, tmp_path / "run", [], generated=False, result_config=result_config, hydra_yaml="{}")
    root = Path(RunFolder(tmp_path / "run").config().data.mix.a.root)
    assert videos_in(root) == [video("wrist", 0), video("wrist", 2)]


def test_frames_that_are_not_here_are_refused_and_those_that_are_are_the_wholes(hub, today, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("split.json").write_text('{"train": [0, 3], "val": []}')
    hub.add_folder("org/name", today)
    root = begin(tmp_path / "run", "data.root=hf://org/name", "data.split=split.json", "model.cameras=[top]")
    found = {}
    for mode in ("cache", "stream"):
        for name, place in {"part": root, "whole": today}.items():
            data = open_dataset(place, decoder="pyav")
            frames = frames_of(data, {"top": (16, 24)}, mode=mode, workers=1, cache_dir=tmp_path / "c", cache_gb=1)
            windows = Windows(data, frames, [0, 3], history=1, horizon=2)
            found[mode, name] = windows.batch(range(len(windows)))["observation.images.top"]
            if name == "part":
                with pytest.raises(UserError, match=r"camera 'top' in episode 1.*hf://datasets/org/name"):
                    Windows(data, frames, [0, 1], history=1, horizon=2)
    for pixels in found.values():
        np.testing.assert_array_equal(pixels, found["cache", "whole"])
    with pytest.raises(UserError, match="no frames of the camera 'wrist'"):
        frames_of(open_dataset(root), {"wrist": (8, 8)}, mode="cache", workers=1, cache_dir=tmp_path / "c", cache_gb=1)


def test_a_video_that_is_lost_from_what_was_downloaded_is_no_part_that_was_left_out(hub, older, tmp_path):
    hub.add_folder("org/name", older)
    root = begin(tmp_path / "run", "data.root=hf://org/name", "model.cameras=[top]")
    (root / video("top", 2)).unlink()
    with pytest.raises(UserError, match="is missing"):
        open_dataset(root)


def test_what_is_read_is_frozen_and_fetched_again_without_the_rest(hub, older, tmp_path):
    hub.add_folder("org/name", older)
    begin(tmp_path / "run", "data.root=hf://org/name", "model.cameras=[top]")
    assert RunFolder(tmp_path / "run").record()["hub"]["data.root"]["part"]["cameras"] == ["top"]
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(tmp_path / "hf")
    hub.add_folder("org/name", older, README__md=b"the branch has moved")
    hub.sent.clear()
    inputs.forget()
    root = begin(tmp_path / "run", "data.root=hf://org/name", "model.cameras=[top]")
    assert videos_in(root) == [video("top", n) for n in range(4)] and not any("wrist" in n for n in hub.sent)


@pytest.mark.parametrize("cameras", ["[top]", "[top,wrist]"])
def test_the_content_of_a_dataset_is_one_on_disk_and_on_a_hub(hub, older, tmp_path, cameras):
    """Files that nobody reads, and videos that this training does not, count nowhere."""
    hub.add_folder("org/name", older, README__md=b"on the hub alone")
    contents = []
    for name, root in {"hub": "hf://org/name", "disk": str(older)}.items():
        begin(tmp_path / name, f"data.root={root}", f"model.cameras={cameras}")
        execute(tmp_path / name, lambda run: None)
        contents.append(RunFolder(tmp_path / name).record()["inputs"])
    assert contents[0] == contents[1] and len(contents[0]["data.root"]) == 64
    with (older / video("top", 0)).open("ab") as file:
        file.write(b"another content")
    begin(tmp_path / "other", f"data.root={older}", f"model.cameras={cameras}")
    execute(tmp_path / "other", lambda run: None)
    assert RunFolder(tmp_path / "other").record()["inputs"] != contents[0]
    with pytest.raises(UserError, match=r"other content of data.root.*episode_000000.mp4"):
        begin(tmp_path / "disk", f"data.root={older}", f"model.cameras={cameras}")


def test_what_says_which_videos_are_left_out_travels_to_a_node(hub, today, tmp_path):
    from hydra_plugins.xp_ssh_launcher._agent_files import listing

    hub.add_folder("org/name", today)
    root = begin(tmp_path / "run", "data.root=hf://org/name", "model.cameras=[top]")
    assert LEFT_OUT in listing(str(root))
