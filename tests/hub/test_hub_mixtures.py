"""Datasets of a mixture by id: frozen by commit, in the identity and the record, downloaded once."""

from pathlib import Path

import pytest
from data_older import as_older
from data_videos import write_videos
from omegaconf import OmegaConf
from tasks_setup import SMALL
from test_hub_commands import Online

from xp.config import result_config
from xp.errors import UserError
from xp.hub import inputs
from xp.runs import RunFolder, State, start_run


def begin(folder: Path, cache: Path, **mix: object) -> Path:
    """Freeze a training on a mixture."""
    data = {"root": None, "mix": mix, "fps": None}
    config = OmegaConf.create({"task": {"name": "train"}, "data": data, "paths": {"cache": str(cache)}})
    run = start_run(config, folder, [], generated=False, result_config=result_config, hydra_yaml="{}")
    assert run is not None
    return run


def test_each_dataset_is_frozen_by_its_commit_and_downloaded_once(hub, dataset, tmp_path):
    commit = hub.add_folder("org/name", dataset)
    run = begin(tmp_path / "run", tmp_path / "cache", a={"root": "hf://org/name"}, disk={"root": str(dataset)})
    record, config = RunFolder(run).record(), RunFolder(run).config().data.mix
    assert set(record["hub"]) == {"data.mix.a.root"}
    assert record["hub"]["data.mix.a.root"]["commit"] == commit
    assert (Path(config.a.root) / "meta/info.json").is_file() and config.disk.root == str(dataset)
    sent = sum(hub.sent.values())
    hub.add_folder("org/name", dataset, README__md=b"the branch has moved")
    inputs.forget()
    again = begin(tmp_path / "run", tmp_path / "cache", a={"root": "hf://org/name"}, disk={"root": str(dataset)})
    assert RunFolder(again).record()["hub"] == record["hub"] and sum(hub.sent.values()) == sent


def test_the_identity_is_the_commit_however_it_was_typed_and_weight_0_asks_no_hub(hub, dataset, tmp_path):
    commit = hub.add_folder("org/name", dataset)
    typed = [
        {"a": {"root": "hf://org/name"}},
        {"a": {"repo_id": "org/name"}},
        {"a": {"repo_id": "org/name", "revision": commit}},
        {"a": {"root": f"hf://datasets/org/name@{commit}"}, "none": {"root": "hf://org/gone", "weight": 0}},
    ]
    runs = [begin(tmp_path / f"run{n}", tmp_path / f"cache{n % 2}", **mix) for n, mix in enumerate(typed)]
    first, *others = [RunFolder(run).record()["identity"] for run in runs]
    assert others == [first] * 3
    inputs.forget()
    hub.add_folder("org/name", dataset, README__md=b"another commit")
    moved = begin(tmp_path / "new", tmp_path / "cache", a={"root": "hf://org/name"})
    assert RunFolder(moved).record()["identity"] != first


def test_checks_before_a_run_see_the_cameras_of_a_dataset_on_a_hub(hub, dataset):
    from xp.config.check_data import _known_cameras, _members

    hub.add_folder("org/name", dataset)
    config = OmegaConf.create({"data": {"mix": {"a": {"root": "hf://org/name", "cameras": {"front": "top"}}}}})
    assert _known_cameras(config) == (("front",), "the mixture data.mix")
    assert not hub.sent["data/chunk-000/file-000.parquet"], "no rows are fetched for that"
    config.data.mix.a.cameras.front = "tpo"
    with pytest.raises(UserError, match="did you mean 'top'"):
        _known_cameras(config)
    assert _members(config)[0].root == "hf://org/name"


@pytest.fixture
def videos(tmp_path) -> Path:
    """A LeRobotDataset v3.0 of six episodes with an mp4 for each and camera."""
    lengths = (9, 7, 8, 9, 7, 8)
    return write_videos(tmp_path / "v3", lengths=lengths, files=tuple((n,) for n in range(6)), codec="mpeg4", g="3")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_mixture_and_a_v2_1_dataset_are_trained_on_and_measured_by_id(hub, videos, tmp_path):
    """An Octo: trained on a v2.1 dataset, and on it and a v3.0 one together, all from a hub."""
    older = as_older(videos, tmp_path / "v2", "v2.1")
    hub.add_folder("org/older", older)
    hub.add_folder("org/today", videos)
    xp = Online(tmp_path, tmp_path / "cache")
    small = ["task=train", *SMALL, "trainer.steps=3", "trainer.val_every=3", "horizon=h4"]
    cameras = "model.cameras.primary.camera=top", "model.cameras.wrist.camera=wrist"
    xp(*small, *cameras, "data.root=hf://org/older@main", "data.val_fraction=0.34", "hydra.run.dir=alone")
    xp("task=predict", "predict.checkpoint=alone", "predict.data_root=hf://org/older", "horizon=h4",
       "hydra.run.dir=predicted")  # fmt: skip
    mix = "data.mix={a: {root: hf://org/older@main, weight: 0.7}, b: {repo_id: org/today, weight: 0.3}}"
    xp(*small, *cameras, "data=mix", mix, "data.val_fraction=0.34", "hydra.run.dir=both")
    for name, keys in (("alone", {"data.root"}), ("both", {"data.mix.a.root", "data.mix.b.repo_id"})):
        record = RunFolder(tmp_path / name).record()
        assert record.state is State.DONE and set(record["hub"]) == keys
    xp("task=predict", "predict.checkpoint=both", "predict.unnorm_key=a", "horizon=h4", "hydra.run.dir=of_a")
