"""`xp task=merge` as a user types it: every method on three checkpoints, JAX and torch, with a made-up objective."""

import json
import sys
import types

import numpy as np
import pytest
from merging_made_up import STATS, Bowl, made_arrays, read_arrays, write_jax, write_octo, write_torch

from xp.__main__ import main
from xp.merging.methods import METHODS

WRITE = {"jax": write_jax, "torch": write_torch}
MORE = {
    "manual": ["merge.weights=[.5,.3,.2]"],
    "linear": ["merge.weights=[1,1,-1]"],
    "gradient_descent": ["merge_method.iterations=2"],
    "adaptive_gradient_descent": ["merge_method.iterations=2", "merge_method.adaptive=step"],
    "interpolate": ["merge_method.alpha={language: 0.5, *: 1.0}"],
    "ties": ["merge_method.density=0.5"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def measured(folder, monkeypatch):
    """An objective of the test's own in place of the ones that need a policy and its data."""
    module = types.ModuleType("xp.tasks._lib.objectives")
    module.make_objective = lambda config, first: Bowl(made_arrays(1))
    monkeypatch.setitem(sys.modules, "xp.tasks._lib.objectives", module)
    (folder / "val.safetensors").write_bytes(b"")


def xp(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main(["task=merge", *arguments])
    assert ended.value.code == code


@pytest.mark.parametrize("kind", list(WRITE))
def test_every_method_from_the_command_line(kind, folder, measured):
    for k in range(3):
        WRITE[kind](folder / f"c{k}", made_arrays(k), stats=STATS)
    WRITE[kind](folder / "base", made_arrays(9), stats=STATS)
    for k in range(2):
        WRITE[kind](folder / f"run/checkpoints/checkpoint-{k + 1}", made_arrays(k), stats=STATS)
    for method, needs in METHODS.items():
        names = ["run"] if needs.run else [f"c{k}" for k in range(needs.count or 3)]
        xp(
            f"merge_method={method}",
            f"merge.checkpoints=[{','.join(names)}]",
            "merge.validation=val.safetensors",
            *(["merge.base=base"] if needs.base else []),
            *MORE.get(method, []),
            f"merge.output=out_{method}",
            f"hydra.run.dir=runs/{method}",
        )
        record = json.loads((folder / f"out_{method}/merge.json").read_text())
        assert record["method"] == method
        assert json.loads((folder / f"runs/{method}/record.json").read_text())["state"] == "done"
        assert read_arrays(folder / f"out_{method}").keys() == made_arrays().keys()
        place = f"out_{method}/0" if kind == "jax" else f"out_{method}"
        assert (folder / place / "assets/lab/arm/norm_stats.json").is_file()
    searched = json.loads((folder / "runs/gradient_descent/summary.json").read_text())
    assert searched["loss"] <= Bowl(made_arrays(1)).loss(read_arrays("out_average"))


def test_a_merge_without_a_place_makes_its_run_a_policy_folder(folder):
    for k in range(2):
        write_octo(folder / f"c{k}", made_arrays(k))
    xp("merge_method=average", "merge.checkpoints=[c0,c1]", "hydra.run.dir=run")
    merged = read_arrays("run")
    expected = (made_arrays(0)["action_out_proj/kernel"] + made_arrays(1)["action_out_proj/kernel"]) / 2
    np.testing.assert_allclose(merged["action_out_proj/kernel"], expected, rtol=1e-6)
    assert (folder / "run/final/dataset_statistics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["merge.checkpoints=[c0,c1]"], "needs a method"),
        (["merge_method=average"], "which checkpoints"),
        (["merge_method=average", "merge.checkpoints=[c0,nowhere]"], "nowhere"),
        (["merge_method=manual", "merge.checkpoints=[c0,c1]", "merge.weights=[.5,.3,.2]"], "3 weights for 2"),
        (["merge_method=greedy", "merge.checkpoints=[c0,c1]"], "xp task=dump"),
        (["merge_method=ties", "merge.checkpoints=[c0,c1]"], "merge.base=FOLDER"),
    ],
)
def test_mistakes_are_explained_and_leave_no_output(folder, capfd, arguments, said):
    for k in range(2):
        write_torch(folder / f"c{k}", made_arrays(k))
    xp(*arguments, "merge.output=out", "hydra.run.dir=run", code=2)
    text = capfd.readouterr().err
    assert said in text
    assert "Traceback" not in text
    assert not (folder / "out").exists()
