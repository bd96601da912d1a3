"""What the commands of the pages are about: a dataset, three policies of it, an experiment, a validation set."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def places(tmp_path_factory) -> dict[str, Path]:
    """Folders that stand in for the reader's, by the names of tests/docs/substitutions.py; made once, in few steps."""
    folder = tmp_path_factory.mktemp("places")
    names = ("cache", "dataset", "run", "other", "third", "smooth", "experiment")
    places = {name: folder / name for name in names} | {"dump": folder / "val.safetensors"}

    def xp(*words: str) -> None:
        line = [sys.executable, "-m", "xp", f"paths.cache={places['cache']}", *words, "debug=fast"]
        subprocess.run(line, cwd=folder, check=True, timeout=900)

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
