"""Of a dataset on a hub only the files that a training reads: videos of its cameras, of its episodes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_older import as_older
from data_videos import write_videos
from omegaconf import OmegaConf
from tasks_setup import Online

from xp.config import result_config
from xp.config.compose import compose
from xp.data import Windows, open_dataset
from xp.data.frames import frames_of
from xp.data.splits import first_of_tasks, split_episodes
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
    for path in (path for path in sorted(root.glob("data/*/*.parquet")) if int(path.stem[-1]) % 2):
        rows = pq.read_table(path)
        ones = pa.array([1] * len(rows), rows.schema.field("task_index").type)
        rows = rows.set_column(rows.schema.names.index("task_index"), "task_index", ones)
        path.unlink()  # it may be a link
        pq.write_table(rows, path)
    return root


def begin(folder: Path, *overrides: str, of: str = "data.root") -> Path:
    """Freeze a run (a training, where no task is given) as the command line does; gives the folder of its dataset."""
    task = [] if any(each.startswith("task=") for each in overrides) else ACT
    config = compose([*task, f"paths.cache={folder.parent / 'cache'}", *overrides])
    run = start_run(config, folder, [], generated=False, result_config=result_config, hydra_yaml="{}")
    assert run is not None
    return Path(OmegaConf.select(RunFolder(run).config(), of))


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
    changed = (older / video("top", 0)).read_bytes() + b"another content"
    (older / video("top", 0)).unlink()  # it may be a link
    (older / video("top", 0)).write_bytes(changed)
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


def policy_run(folder: Path, train: list[int], val: list[int]) -> Path:
    """What a prediction's checks and its choice of episodes read of a training run's folder."""
    folder.mkdir()
    (folder / "split.json").write_text(json.dumps({"train": train, "val": val}))
    return folder


def measured(root: Path, limit: int | None, fraction: float = 0.1) -> set[int]:
    """What a share of the dataset holds out for who was trained on other data."""
    data = open_dataset(root)
    split = split_episodes(data, val_fraction=fraction, seed=0)
    return set(first_of_tasks(split.val, data.episodes.tasks, limit))


def kept_videos(episodes: set[int]) -> list[str]:
    return sorted(video(camera, n) for n in episodes for camera in ("top", "wrist"))


@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_prediction_fetches_videos_of_episodes_that_may_be_held_out(hub, older, tmp_path, limit):
    """Whether the run was trained on this dataset is known when its rows are read: then one of two lists counts."""
    hub.add_folder("org/name", older)
    policy = policy_run(tmp_path / "policy", [0, 1], [2, 3])
    asked = ["task=predict", f"predict.checkpoint={policy}", "predict.data_root=hf://org/name"]
    root = begin(tmp_path / "run", *asked, f"predict.num_trajectories={limit or 'null'}", of="predict.data_root")
    own = {2} if limit == 1 else {2, 3}
    assert videos_in(root) == kept_videos(own | measured(older, limit)) and len(own | measured(older, limit)) < 4


def test_of_a_manifest_those_that_it_holds_out(hub, older, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("split.json").write_text('{"train": [0], "val": [3]}')
    hub.add_folder("org/name", older)
    policy = policy_run(tmp_path / "policy", [0, 1], [2])
    asked = ["task=predict", f"predict.checkpoint={policy}", "predict.data_root=hf://org/name", "data.split=split.json"]
    assert videos_in(begin(tmp_path / "run", *asked, of="predict.data_root")) == kept_videos({3})


def test_a_replay_fetches_the_episodes_that_are_named(hub, older, tmp_path):
    hub.add_folder("org/name", older)
    policy = policy_run(tmp_path / "policy", [0, 1], [2])
    asked = ["task=eval", "eval=offline_replay", f"eval.checkpoint={policy}", "eval.data_root=hf://org/name"]
    root = begin(tmp_path / "run", *asked, "eval.indices_episode=[1,3]", of="eval.data_root")
    assert videos_in(root) == kept_videos({1, 3})
    root = begin(tmp_path / "other", *asked, "eval.episodes=1", of="eval.data_root")
    assert videos_in(root) == kept_videos({2} | measured(older, 1))


def test_of_a_policy_that_is_on_a_hub_too_nothing_is_known_yet(hub, older, tmp_path):
    hub.add_folder("org/name", older)
    hub.add("org/policy", {"config.json": b"{}", "model.safetensors": b"s"}, kind="model")
    asked = ["task=predict", "predict.checkpoint=hf://org/policy", "predict.data_root=hf://org/name"]
    root = begin(tmp_path / "run", *asked, of="predict.data_root")
    assert videos_in(root) == videos_in(older)


def test_episodes_of_several_tasks_are_all_fetched(hub, older, tmp_path):
    """Only the rows tell which of them an episode counts as."""
    lines = [json.loads(line) for line in (older / "meta/episodes.jsonl").read_text().splitlines()]
    lines[0]["tasks"] = ["do it", "leave it"]
    (older / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    hub.add_folder("org/name", older)
    policy = policy_run(tmp_path / "policy", [0, 1], [2])
    asked = ["task=predict", f"predict.checkpoint={policy}", "predict.data_root=hf://org/name"]
    assert videos_in(begin(tmp_path / "run", *asked, of="predict.data_root")) == videos_in(older)


def test_a_dump_fetches_what_is_held_out(hub, older, tmp_path):
    hub.add_folder("org/name", older)
    root = begin(tmp_path / "run", "task=dump", "model=act_tiny", "data.root=hf://org/name")
    assert videos_in(root) == kept_videos(measured(older, None))
    root = begin(
        tmp_path / "all", "task=dump", "model=act_tiny", "data.root=hf://org/name", "dump.part=train",
        "dump.allow_training=true",
    )  # fmt: skip
    assert videos_in(root) == videos_in(older)


@pytest.mark.slow
def test_a_prediction_by_id_is_the_one_of_the_whole_dataset(hub, older, tmp_path):
    xp = Online(tmp_path, tmp_path / "cache")
    few = ["trainer.steps=2", "trainer.batch_size=2", "trainer.val_windows=4", "trainer.val_every=2", "horizon.train=2"]
    xp(*ACT, *few, f"data.root={older}", "data.val_fraction=0.5", "hydra.run.dir=policy")
    hub.add_folder("org/name", older)
    found = []
    for name, root in {"disk": str(older), "hub": "hf://org/name"}.items():
        at = [f"predict.data_root={root}", "predict.num_trajectories=1", f"hydra.run.dir={name}"]
        xp("task=predict", "predict.checkpoint=policy", "predict.bootstrap=10", *at)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        found.append({key: metrics[key] for key in ("mse", "l1", "held_out_episodes", "held_out") if key in metrics})
    assert found[0] == found[1] and found[0]["held_out"] == "held out by the training run" and "mse" in found[0]
    assert len(videos_in(Path(RunFolder(tmp_path / "hub").config().predict.data_root))) < len(videos_in(older))
