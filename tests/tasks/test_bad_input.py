"""What users get wrong: one paragraph that says what to do, exit code 2, nothing half-written."""

import json
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
from tasks_setup import EVERY, SMALL


@pytest.fixture
def dataset(arm, tmp_path):
    """A copy of the recorded dataset that a test may damage."""
    return shutil.copytree(arm, tmp_path / "damaged")


def train(xp, *more, code=2):
    return xp("task=train", *SMALL, "trainer.steps=4", *EVERY, "hydra.run.dir=run", *more, code=code)


def paragraph(done):
    """The error of a finished process: one paragraph that starts with `xp: `, and no traceback."""
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("xp: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def change_info(root, **fields):
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_missing_dataset_says_how_to_get_one_and_leaves_nothing(xp):
    text = paragraph(train(xp, "data.root=nowhere"))
    assert "nowhere" in text
    assert "xp task=collect data.root=nowhere" in text
    assert not list(xp.cwd.iterdir())


def test_a_dataset_of_a_lerobot_that_is_too_old_says_which_are_read(xp, dataset):
    change_info(dataset, codebase_version="v1.6")
    text = paragraph(train(xp, f"data.root={dataset}"))
    assert "v1.6" in text
    assert "v2.0, v2.1 and v3.0" in text


def test_a_truncated_parquet_file_is_named(xp, dataset):
    path = dataset / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "file-000.parquet" in paragraph(train(xp, f"data.root={dataset}"))


def test_a_nan_action_is_named_by_episode_and_frame(xp, dataset):
    import pyarrow

    path = dataset / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    actions = np.stack(table["action"].to_pylist()).astype(np.float32)
    actions[50, 2] = np.nan
    column = pyarrow.array(list(actions), type=table.schema.field("action").type)
    table = table.set_column(table.schema.get_field_index("action"), table.schema.field("action"), column)
    parquet.write_table(table, path)
    text = paragraph(train(xp, f"data.root={dataset}"))
    assert "holds nan at episode 1, frame" in text


def test_a_truncated_checkpoint_is_refused(xp, arm, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "truncated")
    (file,) = (copy / "final").glob("*/default/checkpoint")
    file.write_bytes(file.read_bytes()[:-100])
    text = paragraph(train(xp, f"data.root={arm}", f"pretrained_path={copy}"))
    assert "truncated" in text


def test_a_checkpoint_of_another_model_is_refused(xp, arm, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"")
    text = paragraph(train(xp, f"data.root={arm}", f"pretrained_path={other}"))
    assert "model.safetensors" in text
    assert "checkpoint" in text


def test_a_freeze_pattern_that_matches_nothing_is_refused(xp, arm):
    text = paragraph(train(xp, f"data.root={arm}", 'trainer.freeze=["BlockTransformer_0"]'))
    assert "BlockTransformer_0" in text
    assert "'*BlockTransformer_0*' matches" in text


def test_an_unwritable_output_folder_is_refused(xp, arm):
    (xp.cwd / "file").write_text("not a folder")
    text = paragraph(xp("task=train", f"data.root={arm}", *SMALL, "hydra.run.dir=file/run", code=2))
    assert "file/run" in text


def test_a_horizon_of_zero_in_a_sweep_is_found_before_any_job_starts(xp, arm):
    text = paragraph(xp("-m", f"data.root={arm}", "horizon.train=1,0", code=2))
    assert "horizon.train=0" in text
    assert not (xp.cwd / "multirun").exists()


def test_a_loss_that_leaves_its_range_stops_with_step_episodes_and_a_good_checkpoint(xp, arm):
    done = train(xp, f"data.root={arm}", "lr.peak=1e30", "lr.warmup_steps=0", "trainer.clip_norm=null", code=1)
    text = paragraph(done)
    assert "step" in text
    assert "episode" in text
    assert "lr.peak" in text
    record = json.loads((xp.cwd / "run/record.json").read_text())
    assert record["state"] == "failed"
    assert not (xp.cwd / "run/final").exists()


def test_a_video_dataset_of_lerobot_trains_with_its_folder_alone(xp):
    _record_with_lerobot(xp.cwd / "videos")
    short = ["task=train", "data.root=videos", "model=octo_tiny", "trainer.steps=2", "trainer.batch_size=2"]
    xp(*short, "hydra.run.dir=run")
    summary = json.loads((xp.cwd / "run/summary.json").read_text())
    assert summary["data"]["held_out_episodes"] == 1

    part = next((xp.cwd / "videos").rglob("*.mp4"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    done = xp(*short, "paths.cache=other", "hydra.run.dir=cut", code=2)
    assert part.name in paragraph(done)


def _record_with_lerobot(root):
    """Two episodes, two cameras of 480x640, with LeRobot's own API."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    image = {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.front": image,
        "observation.images.hand": image,
        "observation.state": {"dtype": "float32", "shape": (7,), "names": [f"joint_{i}" for i in range(7)]},
        "action": {"dtype": "float32", "shape": (7,), "names": [f"joint_{i}" for i in range(7)]},
    }
    dataset = LeRobotDataset.create("local/videos", fps=30, features=features, root=root, use_videos=True)
    draw = np.random.default_rng(0)
    for _ in range(2):
        for step in range(12):
            frame = np.full((480, 640, 3), step * 20, np.uint8)
            vector = draw.normal(size=7).astype(np.float32)
            dataset.add_frame({
                "observation.images.front": frame,
                "observation.images.hand": frame,
                "observation.state": vector,
                "action": vector,
                "task": "wave",
            })  # fmt: skip
        dataset.save_episode()
    dataset.finalize()


def test_a_run_that_names_its_dataset_from_another_folder_says_where_to_start(xp, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "moved")
    summary = json.loads((copy / "summary.json").read_text())
    summary["data"]["root"] = "recorded"
    (copy / "summary.json").write_text(json.dumps(summary))
    text = paragraph(xp("task=predict", f"predict.checkpoint={copy}", "hydra.run.dir=run", code=2))
    assert "a path from the folder that xp was started in" in text and "ln -s DATASET recorded" in text
