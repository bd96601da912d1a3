"""The main job started from a folder in Octo's own format, for every head that the first experiments compared."""

import json

import numpy as np
import pytest
from tasks_setup import SMALL, Xp

pytestmark = pytest.mark.slow

SHORT = ["trainer.steps=6", "trainer.val_every=3", "trainer.checkpoint_every=3", "predict.bootstrap=50"]
HORIZONS = (1, 4, 8)


@pytest.fixture(scope="module")
def octo(tmp_path_factory, arm):
    """An Octo with random weights of the small model's trunk, trained on nothing: horizon 4, another action size."""
    from omegaconf import OmegaConf

    from xp.config import compose
    from xp.data import open_dataset
    from xp.models import build
    from xp.models.policy import DataSpec

    model = OmegaConf.to_container(compose(["model=octo_tiny", *SMALL]).model, resolve=True)
    dataset = open_dataset(arm)
    sizes = {"action_dim": 7, "state_dim": dataset.state_dim}
    data = DataSpec(cameras=dataset.cameras, fps=5.0, **sizes)
    unit = {
        name: {"mean": [0.0] * size, "std": [1.0] * size} for name, size in (("action", 7), ("proprio", data.state_dim))
    }
    made = build(model, data=data, statistics={"bridge_dataset": unit}, horizon=4, seed=0)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("octo") / "octo-pretrained"
    made.policy(made.weights).save(folder, step=300_000)  # type: ignore[call-arg]
    return folder


@pytest.mark.parametrize("head", ["gaussian", "teleop", "diffusion"])
def test_the_main_job_runs_from_an_octo_folder(octo, arm, cache, tmp_path, head):
    xp = Xp(tmp_path, cache)
    xp(
        "+experiment=multi_horizon", "-m", *SMALL, *SHORT, f"data.root={arm}", f"pretrained_path={octo}",
        f"model.head.type={head}", "hydra.launcher.n_jobs=2", timeout=1800,
    )  # fmt: skip
    folder = tmp_path / "multirun/multi_horizon"
    assert not (folder / "pretrain").exists() and not (folder / "collect").exists()
    for trained in HORIZONS:
        run = folder / f"horizon_{trained}"
        log = (run / "log.txt").read_text()
        assert f"Started from {octo}" in log and "Freshly initialised" in log and "Left behind" in log
        statistics = json.loads((run / "final/dataset_statistics.json").read_text())
        assert set(statistics["action"]) >= {"mean", "std", "min", "max", "p01", "p99", "mask"}
        assert statistics["num_trajectories"] and statistics["num_transitions"]
        for predicted in HORIZONS:
            metrics = json.loads((folder / f"train_h{trained}_pred_h{predicted}/metrics.json").read_text())
            assert np.isfinite(metrics["mse"]) and metrics["num_windows"] > 0
            assert (metrics["training_horizon"], metrics["prediction_horizon"]) == (trained, predicted)
    assert len(json.loads((folder / "summary.json").read_text())) == 9
    assert (folder / "report.html").is_file()
