"""Mistakes about parts from outside end as those about own ones do: one message that says what to type, exit code 2."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["model=toy_mpl"], "model=toy_mpl: there is no such option.*toy_mlp"),
        (["model=toy_mlp", "model.widht=3"], "There is no key 'model.widht'.*did you mean 'width'"),
        (["model=toy_mlp", "model.family=toy_mpl"], "model.family=toy_mpl: allowed are .*toy_mlp.*toy_jax, toy_mlp"),
        (["model=toy_mlp", "+model.widht=3"], "model.widht: the family toy_mlp has no such option.*'width'"),
        (["model=toy_jax", "model.draws=0"], "model.draws=0: must be at least 1 and at most 100"),
        (["model=toy_mlp", "model.cameras=[abvoe]"], "the dataset has no camera 'abvoe' .did you mean 'above'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_familys_names_and_options(outside, episodes, given, words):
    said = outside.refused("task=train", f"data.root={episodes}", *given, "hydra.run.dir=run")
    assert re.search(words, said), said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["env=toy_raech"], "env=toy_raech: there is no such option.*toy_reach"),
        (["env=toy_reach", "env.radius=7"], "env.radius=7.*between 0.01 and 1"),
        (["env=toy_reach", "+env.radios=1"], "There is no key 'env.radios'.*did you mean 'radius'"),
        (["env=toy_reach", "env.tasks=[reech]"], "no task 'reech' in the suite .did you mean 'reach'"),
        (["env=toy_reach", "env.name=toy_raech"], "env.name=toy_raech: no installed package has it.*'toy_reach'"),
        (["env=toy_reach", "collect.noise=3"], "collect.noise=3.*0.1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_suites_names_and_keys(outside, given, words):
    said = outside.refused("task=collect", "data.root=new", "collect.workers=1", *given, "hydra.run.dir=run")
    assert re.search(words, said), said
    assert not (outside.cwd / "new").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["merge_method=toy_powr"], "merge_method=toy_powr: there is no such option.*toy_power"),
        (["merge_method=toy_power", "merge_method.power=9"], "merge_method.power=9.*0 and 8"),
        (["merge_method=toy_power", "+merge_method.powr=1"], "merge_method.powr.*power"),
        (["merge_method=toy_power", "merge_method.power=loud"], "merge_method.power='loud': expected a number"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_merge_methods_names_and_options(outside, given, words):
    for name in "ab":
        (outside.cwd / name).mkdir()
        save_file({"w": np.ones(3, np.float32)}, outside.cwd / name / "model.safetensors")
    said = outside.refused("task=merge", "merge.checkpoints=[a,b]", *given, "hydra.run.dir=run")
    assert re.search(words, said), said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["hydra/launcher=toy_proceses"], "hydra/launcher=toy_proceses: there is no such option.*toy_processes"),
        (["hydra/launcher=toy_processes", "hydra.launcher.n_jobs=0"], "hydra.launcher.n_jobs=0: expected how many"),
        (["hydra/launcher=toy_processes", "+hydra.launcher.jobs=2"], "hydra.launcher.jobs.*n_jobs"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_launchers_names_and_settings(outside, episodes, given, words):
    said = outside.refused("task=split", "-m", f"data.root={episodes}", "split.seed=1,2", *given)
    assert re.search(words, said), said


def edited(folder, **changed):
    notes = json.loads((folder / "toy.json").read_text())
    (folder / "toy.json").write_text(json.dumps({**notes, **changed}))


def cut(folder):
    (folder / "episode_3.npz").write_bytes((folder / "episode_3.npz").read_bytes()[:200])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "episode_3.npz cannot be read"),
        (lambda f: (f / "episode_3.npz").unlink(), "There is no file .*episode_3.npz"),
        (lambda f: np.savez(f / "episode_3.npz", action=np.ones((8, 2))), "episode_3.npz has no array 'state'"),
        (lambda f: edited(f, fps="fast"), "toy.json: fps is 'fast': expected a number"),
        (lambda f: edited(f, episodes=[9] * 60), "toy.json: episodes is .*expected the number of a task, 0 to 0"),
        (lambda f: (f / "toy.json").write_text("{"), "toy.json .* is not the JSON of the notes"),
        (lambda f: (f / "toy.json").unlink(), "no dataset of a format that xp knows .*toy_npz dataset is a folder"),
    ],
    ids=["cut", "missing", "without_state", "field", "task", "json", "no_notes"],
)  # fmt: skip
def test_a_damaged_dataset_of_the_format(outside, episodes, change, words):
    change(shutil.copytree(episodes, outside.cwd / "damaged"))
    said = outside.refused("task=split", "data.root=damaged", "hydra.run.dir=run")
    assert re.search(words, said), said


def test_a_damaged_policy_folder_and_one_of_a_package_that_is_gone(outside, trained):
    folder = shutil.copytree(trained("toy_mlp") / "final", outside.cwd / "policy")
    weights = load_file(folder / "model.safetensors")
    save_file({name: array for name, array in weights.items() if name != "body.0.bias"}, folder / "model.safetensors")
    ask = ["task=eval", "env=toy_reach", "eval.checkpoint=policy", "eval.episodes=1"]
    said = outside.refused(*ask, "hydra.run.dir=lacking")
    assert "do not fit its own xp_policy.json: model.safetensors lacks body.0.bias" in said
    outside.site = outside.cwd  # nothing is installed there
    said = outside.refused("task=eval", "eval.checkpoint=policy", "eval.episodes=1", "hydra.run.dir=gone")
    assert "is of the family toy_mlp, which no installed package brings" in said


def test_a_package_whose_folder_of_options_is_none_is_named(outside):
    site = shutil.copytree(outside.site, outside.cwd / "site")
    (site / "xp_toys" / "conf" / "__init__.py").unlink()
    outside.site = site
    said = outside.refused("--help")
    assert "package xp_toys adds the options in pkg://xp_toys.conf" in said and "__init__.py" in said
