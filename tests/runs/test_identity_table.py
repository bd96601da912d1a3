"""Identity survives versions: a table of real identities, and keys that come later and mean "as before"."""

import dataclasses
import importlib
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xp.__main__ import main
from xp.config import compose, conf_folder, identity_keys, result_config, schema
from xp.errors import UserError
from xp.runs import run_once
from xp.runs.jobs.identity import identity

FORMER_DEFAULTS = {
    "{octo}": "model.cameras.primary.size=[96,96] model.stem.features=[16,32,32] model.stem.strides=[2,2,1] "
    "model.stem.kernels=null",
    "{env}": "env.cameras.oblique=[96,96] env.cameras.wrist=[96,96]",
}
"""Defaults that were changed, and with them what such a command does: said outright, it is the same run as before."""

TABLE = {
    "task=train{octo}":
        "0c139d3a2988eb3d3e364eac0fb01872fe11db7fbf99a3368fce6f75fe480c5e",
    "task=train model=octo_small trainer=gpu lr=linear_warmup":
        "b1d87ed8c4ec3953b6fb9e7da363b42d7d9b47571243d3dd42e234bc31c033ec",
    "task=train model=act lr.peak=1e-5 seed=3 obs_dropout=p30":
        "f73535f72edfcbd52f7825c9dbf458f7650da98c2055ffec30d4c37d0b14969d",
    "task=train model=act_smooth action_space=relative horizon=h16":
        "89a767bc82931f4c25f9c134ef6c5666100177fe1fcd7527c89747caedd9a320",
    "task=train model=diffusion trainer=octo_finetune data=lerobot data.root=/data/push":
        "9294889050e56e9c7f4bf01d72225fd38b6e518a665ca1fa4ea4e67007f050bc",
    "task=train model=act_tiny augment=lerobot model.image_size=[96,96]":
        "1c99cce73d87b54c3bdfeb4d5fed1228f649601b74d0955ed41d4fa6c50afec8",
    "task=predict predict.checkpoint=/policies/octo horizon=h8":
        "6a1212846d8acaf051d74348d7497d169df2c9a5101ed318877d8f260057bd0c",
    "task=predict predict.checkpoint=/policies/octo predict.unnorm_key=bridge predict.num_trajectories=null":
        "6d57ee802224dca443f2779e5102b709963bdc69a8a1d2e4b55b8177c9b291b5",
    "task=eval eval.checkpoint=/policies/act{env}":
        "9390c5bdb616402f12603d07ef8fa16b1b38381517315e0ca42b555fdb0e8744",
    "task=eval eval=offline_replay eval.checkpoint=/policies/act chunk_size=c8 chunk_size.execution=blend":
        "36b3a4ab2f4b6d2d3c5ad85e366a61dbc20126aa8410324ccd97a28f75f3c2bb",
    "task=collect env.tasks=[push_red] collect.episodes=3{env}":
        "829fa3ce5cd04b3395b9034afd39cf87049c0e51728f65f5d9684abeea8359bb",
    "task=split data.root=/data/push split.split_num=3":
        "1af74788bf3dee389346662bb15431aae046643a58b5560bac0ebf8f66f4b6a9",
    "task=dump data.root=/data/push dump.samples=16{octo}":
        "9025b06448b42ba5cfa9c7242c98447a4c20d3d9e2dd74c6cf84d72aab337d66",
    "task=merge merge_method=ties merge.checkpoints=[/policies/a,/policies/b] merge.base=/policies/c{env}":
        "9b99a99b7e7726d6df28a67d1fbcadbb33005b2c5b21cb1a38e6133416746749",
    "task=merge merge_method=average merge.checkpoints=[/policies/a@100,/policies/b]{env}":
        "27993ae465fbe4cac9147867cf186d79884c798ea2d65299f9e21a195cced4ea",
    "task=convert convert.checkpoint=/policies/pi0 convert.to=lerobot":
        "88bdc082fff8b6ee10b0d611f61ffb9192e436ff73be9c831c4606297e066bff",
    "task=loop loop=as_published env=minicheetah pretrained_path=/policies/vintix":
        "9419682d4f8d2f78aa7d52772a77296498b1fc250236262f2bb90a2481140c6e",
}  # fmt: skip
"""{a command without `xp`: the identity of its run}.

A change here makes folders of finished runs another run's. Where it fails because a key was added: write the key's
value that means "as before" into `xp.config.identity_keys.NEUTRAL`.
"""


def identity_of(overrides: list[str]) -> str:
    resolved = OmegaConf.to_container(compose(overrides), resolve=True)
    return identity(result_config(resolved))  # type: ignore[arg-type]


@pytest.mark.parametrize("command", TABLE)
def test_the_identity_of_a_command_is_that_of_earlier_versions(command):
    said = command
    for name, former in FORMER_DEFAULTS.items():
        said = said.replace(name, f" {former}")
    assert identity_of(said.split()) == TABLE[command]


def test_the_table_has_every_task_that_makes_runs():
    assert {command.split()[0].partition("{")[0] for command in TABLE} == {f"task={task}" for task in schema.TASKS} - {
        f"task={task}" for task in (*schema.NO_RUN, "report")
    }


@pytest.fixture
def add_key(tmp_path, monkeypatch):
    """Do what a commit does that adds `trainer.label_noise` (default: none) to YAML and schema."""

    def add(*, neutral: bool) -> None:
        conf = tmp_path / "conf"
        shutil.copytree(conf_folder(), conf)
        with (conf / "trainer/default.yaml").open("a") as file:
            file.write("  label_noise: null           # noise on the actions of a training window; null = none\n")
        grown = dataclasses.make_dataclass(
            "Trainer", [("label_noise", float | None, dataclasses.field(default=None))], bases=(schema.Trainer,)
        )
        monkeypatch.setattr(importlib.import_module("xp.config.compose"), "conf_folder", lambda: conf)
        monkeypatch.setitem(schema.SECTIONS, "trainer", grown)
        if neutral:
            monkeypatch.setitem(identity_keys.NEUTRAL, "trainer.label_noise", None)

    return add


def run_in(folder: Path, *overrides: str) -> int:
    return run_once(compose(list(overrides)), folder, ["hydra.run.dir=run"], lambda run: None)


def test_a_new_key_at_its_neutral_value_leaves_a_finished_run_finished(tmp_path, add_key, capsys):
    assert run_in(tmp_path / "run", "lr.peak=1e-4") == 0
    add_key(neutral=True)
    assert compose([]).trainer.label_noise is None
    capsys.readouterr()
    assert run_in(tmp_path / "run", "lr.peak=1e-4") == 0
    assert "skipped: already done" in capsys.readouterr().out


def test_a_new_key_at_another_value_is_another_run(tmp_path, add_key):
    run_in(tmp_path / "run")
    add_key(neutral=True)
    with pytest.raises(UserError, match=r"They differ in trainer\.label_noise: \(not there\) -> 0\.1 \(there"):
        run_in(tmp_path / "run", "trainer.label_noise=0.1")


def test_a_new_key_whose_default_changes_results_is_another_run(tmp_path, add_key):
    run_in(tmp_path / "run")
    add_key(neutral=False)
    with pytest.raises(UserError, match="They differ in trainer.label_noise"):
        run_in(tmp_path / "run")


def test_a_finished_sweep_has_nothing_to_run_after_a_key_came(tmp_path, add_key, capsys, monkeypatch):
    """The sweep's runs are made through the entry, without work; the same command after the commit finds them done."""
    monkeypatch.chdir(tmp_path)
    line = ["-m", "task=collect", "seed=0,1", "hydra.sweep.dir=sweep"]
    for seed in (0, 1):
        run_in(tmp_path / f"sweep/seed_{seed}", "task=collect", f"seed={seed}")
    add_key(neutral=True)
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 0
    assert "2 of 2 done, nothing to run" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("value", "is_left_out"), [(0, True), (0.0, True), (False, False), ("0", False), (None, False)]
)
def test_a_neutral_value_is_compared_as_identity_compares(monkeypatch, value, is_left_out):
    monkeypatch.setitem(identity_keys.NEUTRAL, "split.seed", 0)
    config = {"task": {"name": "split"}, "split": {"seed": value}, "data": {}}
    assert ("split.seed" not in result_config(config)) == is_left_out
