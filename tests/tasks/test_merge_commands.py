"""Every merge method on three checkpoints from the command line, in JAX and PyTorch, with the policies' own losses."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tasks_setup import SMALL, Xp

from xp.models import load_policy

pytestmark = pytest.mark.slow

WITH_ALL = (
    "average", "inverse_loss", "greedy", "gradient_descent", "adaptive_gradient_descent",
    "task_arithmetic", "ties", "dare", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "sce", "model_stock",
    "karcher",
)  # fmt: skip
ASKING = ("inverse_loss", "greedy", "gradient_descent", "adaptive_gradient_descent")
"""Methods that choose weights by a loss."""
SHORT = [
    "trainer.steps=4", "trainer.val_every=null", "trainer.checkpoint_every=2", "trainer.log_every=1",
    "trainer.batch_size=4", "lr.warmup_steps=0", "lr.peak=1e-3",
]  # fmt: skip
TINY_ACT = [
    "model=act_tiny", "model.image_size=[32,32]", "model.dim_model=16", "model.n_heads=2", "model.dim_feedforward=16",
    "model.n_encoder_layers=1", "model.n_vae_encoder_layers=1", "model.latent_dim=4",
]  # fmt: skip


@dataclass
class Setting:
    """Three policies fine-tuned from one, and a validation set, in the folder of `xp`."""

    xp: Xp
    base: Path
    checkpoints: list[Path]
    dump: Path

    @property
    def given(self):
        """The arguments that say so."""
        listed = ",".join(str(path) for path in self.checkpoints)
        return [f"merge.checkpoints=[{listed}]", f"merge.base={self.base}", f"merge.validation={self.dump}"]


@pytest.fixture(scope="module", params=["jax", "torch"])
def setting(request, tmp_path_factory, cache, arm):
    xp = Xp(tmp_path_factory.mktemp(request.param), cache)
    train = ["task=train", f"data.root={arm}", *SHORT, *(SMALL[:6] if request.param == "jax" else TINY_ACT)]
    xp(*train, "hydra.run.dir=base")
    tuned = ["pretrained_path=base", "hydra.sweep.dir=tuned", "seed=1,2,3", "hydra.launcher.n_jobs=1"]
    xp("-m", *train, *tuned, timeout=900)
    checkpoints = sorted(path for path in (xp.cwd / "tuned").iterdir() if (path / "final").is_dir())
    assert len(checkpoints) == 3
    xp("task=dump", f"dump.checkpoint={checkpoints[0]}", "dump.samples=12", "dump.draws=2", "hydra.run.dir=dump")
    return Setting(xp, xp.cwd / "base", checkpoints, xp.cwd / "dump/dump.safetensors")


@pytest.fixture(scope="module")
def merged(setting):
    """All methods that take three checkpoints, in one sweep."""
    sweep = ["hydra.sweep.dir=merged", f"merge_method={','.join(WITH_ALL)}", "hydra.launcher.n_jobs=1"]
    setting.xp("-m", "task=merge", *setting.given, *sweep, timeout=1200)
    runs = {}
    for path in (setting.xp.cwd / "merged").iterdir():
        if (path / "summary.json").is_file():
            summary = json.loads((path / "summary.json").read_text())
            runs[summary["method"]] = (path, summary)
    return runs


def weights_of(path):
    return {name: np.asarray(array, np.float64) for name, array in load_policy(path).weights().items()}


def test_every_method_leaves_a_policy_that_acts(setting, merged):
    from xp.data.dumps import open_dump

    assert set(merged) == set(WITH_ALL)
    batch = open_dump(setting.dump).batch(np.arange(2))
    for path, _ in merged.values():
        actions = load_policy(path).predict({k: v for k, v in batch.items() if k not in ("noise", "time")})
        assert np.isfinite(actions).all()


def test_average_is_the_mean_of_the_weights(setting, merged):
    inputs = [weights_of(path) for path in setting.checkpoints]
    for name, array in weights_of(merged["average"][0]).items():
        mean = np.mean([weights[name] for weights in inputs], axis=0)
        assert np.allclose(array, mean, rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("method", ASKING)
def test_a_chosen_mix_is_measured_by_the_policies_own_loss(setting, merged, method):
    """The loss in the record is what the objective says about the merged policy that was written."""
    from omegaconf import OmegaConf

    from xp.tasks._lib.objectives import make_objective

    path, summary = merged[method]
    (weights,) = summary["weights"].values()
    assert len(weights) == 3
    assert sum(weights) == pytest.approx(1)
    config = {"paths": {"cache": str(setting.xp.cache)}, "merge": {"validation": str(setting.dump)}}
    objective = make_objective(OmegaConf.create(config), path)
    assert objective.loss(load_policy(path).weights()) == pytest.approx(summary["loss"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        ["merge_method=manual", "merge.weights=[5,3,2]"],
        ["merge_method=linear", "merge.weights=[0.5,0.3,0.2]"],
    ],
)
def test_weights_by_hand(setting, tmp_path, given):
    setting.xp("task=merge", *setting.given, *given, f"hydra.run.dir={tmp_path / 'run'}")
    inputs = [weights_of(path) for path in setting.checkpoints]
    for name, array in weights_of(tmp_path / "run").items():
        mixed = sum(w * weights[name] for w, weights in zip((0.5, 0.3, 0.2), inputs, strict=True))
        assert np.allclose(array, mixed, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize(("method", "count"), [("slerp", 2), ("interpolate", 1), ("ema", 1), ("swa", 1)])
def test_methods_of_fewer_checkpoints(setting, tmp_path, method, count):
    listed = ",".join(str(path) for path in setting.checkpoints[:count])
    base = [f"merge.base={setting.base}"] if method == "interpolate" else []
    setting.xp(
        "task=merge", f"merge_method={method}", f"merge.checkpoints=[{listed}]", *base,
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert all(np.isfinite(array).all() for array in weights_of(tmp_path / "run").values())
