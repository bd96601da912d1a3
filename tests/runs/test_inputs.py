"""What a run read: a dataset that was replaced under it is noticed, a copy with other times is the same."""

import json
import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xp.errors import UserError
from xp.runs import run_once
from xp.runs.jobs import inputs
from xp.runs.jobs.identity import identity


@pytest.fixture
def data(tmp_path) -> Path:
    for name, content in {"meta/info.json": b"{}", "data/a.parquet": b"one" * 1000, "videos/v.mp4": b"two"}.items():
        (tmp_path / "D" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "D" / name).write_bytes(content)
    return tmp_path / "D"


def config(root: Path, **more):
    return OmegaConf.create({"task": {"name": "train"}, "seed": 0, "data": {"root": str(root), **more}})


def train(folder: Path, asked, ran: list | None = None) -> int:
    def task(run) -> None:
        if ran is not None:
            ran.append(run)

    return run_once(asked, folder, ["hydra.run.dir=x"], task)


def test_the_command_again_on_a_replaced_dataset_is_refused_and_names_the_file(data, tmp_path):
    assert train(tmp_path / "run", config(data)) == 0
    (data / "data" / "a.parquet").write_bytes(b"six" * 1000)  # the same size
    with pytest.raises(UserError, match=r"data\.root=.*D than is there now \(changed: data/a\.parquet\).*hydra\.run"):
        train(tmp_path / "run", config(data))


@pytest.mark.parametrize("change", ["added", "removed", "meta"])
def test_files_added_and_removed_are_changes(change, data, tmp_path):
    train(tmp_path / "run", config(data))
    {
        "added": lambda: (data / "videos" / "w.mp4").write_bytes(b""),
        "removed": lambda: (data / "videos" / "v.mp4").unlink(),
        "meta": lambda: (data / "meta" / "info.json").write_bytes(b"[]"),
    }[change]()
    with pytest.raises(UserError, match="was made with other content"):
        train(tmp_path / "run", config(data))


def test_a_copy_with_other_times_and_inodes_counts_as_the_same(data, tmp_path, capsys):
    train(tmp_path / "run", config(data))
    shutil.copytree(data, tmp_path / "copy")
    shutil.rmtree(data)
    shutil.move(tmp_path / "copy", data)
    for path in data.rglob("*"):
        os.utime(path, (1, 1))
    assert train(tmp_path / "run", config(data)) == 0
    assert "already done" in capsys.readouterr().out


def test_an_unchanged_dataset_is_not_read_again(data, tmp_path, monkeypatch):
    train(tmp_path / "run", config(data))
    monkeypatch.setattr(inputs, "_digest", lambda *_: pytest.fail("read again"))
    inputs._lately.cache_clear()
    assert train(tmp_path / "run", config(data)) == 0


def test_a_manifest_that_was_changed_is_noticed_too(data, tmp_path):
    (tmp_path / "split.json").write_text("1")
    train(tmp_path / "run", config(data, split=str(tmp_path / "split.json")))
    (tmp_path / "split.json").write_text("2")
    with pytest.raises(UserError, match=r"data\.split=.*changed: split\.json"):
        train(tmp_path / "run", config(data, split=str(tmp_path / "split.json")))


def test_an_interrupted_run_does_not_go_on_with_other_data_and_a_failed_one_begins_anew(data, tmp_path):
    def leave(run) -> None:
        (run.folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
        raise run.interrupted

    def fail(run) -> None:
        raise UserError("damaged")

    run_once(config(data), tmp_path / "left", ["hydra.run.dir=x"], leave)
    run_once(config(data), tmp_path / "failed", ["hydra.run.dir=x"], fail)
    (data / "data" / "a.parquet").write_bytes(b"mended")
    inputs._lately.cache_clear()
    with pytest.raises(UserError, match="was made with other content"):
        train(tmp_path / "left", config(data))
    ran = []
    assert train(tmp_path / "failed", config(data), ran) == 0 and ran


def test_a_dataset_that_is_gone_and_a_run_of_an_earlier_version_are_not_refused(data, tmp_path):
    train(tmp_path / "run", config(data))
    train(tmp_path / "old", config(data))
    (tmp_path / "old" / "inputs.json").unlink()
    (data / "data" / "a.parquet").write_bytes(b"")
    assert train(tmp_path / "old", config(data)) == 0
    shutil.rmtree(data)
    assert train(tmp_path / "run", config(data)) == 0


def test_a_prediction_knows_the_dataset_of_the_run_it_measures(data, tmp_path):
    train(tmp_path / "run", config(data))
    (tmp_path / "run" / "summary.json").write_text(f'{{"data": {{"root": "{data}"}}}}')
    asked = OmegaConf.create({"task": {"name": "predict"}, "predict": {"checkpoint": str(tmp_path / "run")}})
    assert train(tmp_path / "predict", asked) == 0
    (data / "data" / "a.parquet").write_bytes(b"other")
    inputs._lately.cache_clear()
    with pytest.raises(UserError, match=r"predict\.checkpoint's dataset=.*changed: data/a\.parquet"):
        train(tmp_path / "predict", asked)


def test_what_a_collection_writes_is_no_input(data, tmp_path):
    asked = OmegaConf.create({"task": {"name": "collect"}, "data": {"root": str(data)}})
    train(tmp_path / "run", asked)
    (data / "data" / "b.parquet").write_bytes(b"grown")
    assert train(tmp_path / "run", asked) == 0 and not (tmp_path / "run" / "inputs.json").exists()


def test_identity_is_about_the_configuration_alone(data):
    before = identity({"data.root": str(data)})
    (data / "data" / "a.parquet").write_bytes(b"")
    assert identity({"data.root": str(data)}) == before


@pytest.mark.parametrize("content", ["[]", "{}", '{"data.root": 3}', '{"data.root": {"path": 1, "files": {"a": 1}}}',
                                     '{"data.root": {"path": "/", "files": [1]}}'])  # fmt: skip
def test_a_damaged_inputs_file_is_as_none(content, data, tmp_path):
    train(tmp_path / "run", config(data))
    (tmp_path / "run" / "inputs.json").write_text(content)
    assert train(tmp_path / "run", config(data)) == 0


def test_large_files_are_hashed_by_size_and_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_WHOLE", 1000)
    path = tmp_path / "v.mp4"
    path.write_bytes(bytes(10_000_000))
    first = inputs._digest(path, 10_000_000)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert inputs._digest(path, 10_000_000) != first


def test_what_a_suite_reads_is_an_input_of_the_tasks_that_simulate(tmp_path):
    body = '<body><freejoint/><geom type="mesh" mesh="hull"/></body>'
    robot = f'<mujoco><asset><mesh file="hull.stl"/></asset><worldbody>{body}</worldbody></mujoco>'
    (tmp_path / "robot.xml").write_text(robot)
    (tmp_path / "hull.stl").write_bytes(bytes(80) + b"one")
    (tmp_path / "beside.stl").write_bytes(b"no part of it")
    env = {"name": "quadruped", "mjcf": str(tmp_path / "robot.xml"), "robot": {"name": "go2"}}
    collect = OmegaConf.create({"task": {"name": "collect"}, "seed": 0, "env": env})
    train(tmp_path / "run", collect)
    files = json.loads((tmp_path / "run" / "inputs.json").read_text())["env.mjcf"]["files"]
    assert files.keys() == {"robot.xml", "hull.stl"}
    (tmp_path / "hull.stl").write_bytes(bytes(80) + b"six")
    with pytest.raises(UserError, match=r"env\.mjcf=.*robot\.xml than is there now \(changed: hull\.stl\)"):
        train(tmp_path / "run", collect)
    trained = OmegaConf.create({"task": {"name": "train"}, "seed": 0, "env": env})
    train(tmp_path / "other", trained)
    assert not (tmp_path / "other" / "inputs.json").exists(), "a training does not simulate"
