"""What the pages are about: a dataset, three policies of it, an experiment, a validation set; or one new policy."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory) -> Path:
    """A policy that was never trained, in seconds: what Python blocks need that load one and predict."""
    from xp.config import compose
    from xp.models import build
    from xp.models.policy import DataSpec

    folder = tmp_path_factory.mktemp("policy") / "octo"
    data = DataSpec(cameras={"top": (96, 96, 3), "wrist": (64, 64, 3)}, action_dim=3, state_dim=2, fps=10)
    statistics = {
        "action": {"mean": [0.0] * 3, "std": [1.0] * 3, "mask": [True] * 3},
        "proprio": {"mean": [0.0] * 2, "std": [1.0] * 2},
        "num_transitions": 40,
        "num_trajectories": 2,
    }
    model = compose(["model=octo_tiny"]).model
    trainable = build(model, data=data, statistics=statistics, horizon=4, seed=0)
    trainable.policy(trainable.weights).save(folder)
    return folder


@pytest.fixture(scope="session")
def places(tmp_path_factory) -> dict[str, Path]:
    """Folders that stand in for the reader's, by the names of tests/docs/substitutions.py; made once, in few steps."""
    folder = tmp_path_factory.mktemp("places")
    names = ("cache", "dataset", "trajectories", "run", "other", "third", "smooth", "experiment")
    places = {name: folder / name for name in names} | {"dump": folder / "val.safetensors"}

    def xp(*words: str) -> None:
        line = [sys.executable, "-m", "xp", f"paths.cache={places['cache']}", *words, "debug=fast"]
        subprocess.run(line, cwd=folder, check=True, timeout=900)

    _record_trajectories(places["trajectories"])
    dataset = f"data.root={places['dataset']}"
    xp("task=collect", dataset, "env.tasks=[red_to_target,push_red]")
    xp("task=split", dataset, "split.split_num=4", "hydra.run.dir=split")
    shared = f"data.statistics={folder}/split/all_statistics.json"
    for seed, name in enumerate(("run", "other", "third")):
        xp("task=train", dataset, shared, f"seed={seed}", f"hydra.run.dir={places[name]}")
        (places[name] / "split_0.json").write_bytes((folder / "split/split_0.json").read_bytes())
    xp("task=train", dataset, "model=act_smooth", "horizon.train=4", "model.image_size=[32,32]", "model.dim_model=16",
       "model.n_heads=2", "model.n_encoder_layers=1", f"hydra.run.dir={places['smooth']}")  # fmt: skip
    xp("task=dump", f"dump.checkpoint={places['run']}", f"dump.output={places['dump']}", "hydra.run.dir=dump")
    finetune = f"pretrained_path={places['run']}"
    xp("+experiment=multi_horizon", "-m", dataset, finetune, "horizon.train=1", "horizon.predict=1",
       f"hydra.sweep.dir={places['experiment']}")  # fmt: skip
    return places


def _record_trajectories(folder: Path) -> None:
    """A few histories of attempts with rewards, of a robot that does half of what it sees."""
    import numpy as np

    from xp.data import writing_format

    draw, names = np.random.default_rng(0), {"state_names": ["x", "y"], "action_names": ["left", "right"]}
    with writing_format("vintix", "collect.format").create(
        folder, fps=50, cameras={}, robot_type="toy", **names
    ) as writer:
        for history in range(3):
            for length in (5, 20, 30):
                seen = draw.normal(size=(length, 2))
                writer.add_episode("walk", {}, seen, seen / 2, reward=-np.abs(seen).sum(1), history=history)
