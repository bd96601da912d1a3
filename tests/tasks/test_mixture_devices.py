"""A mixture on two devices: the batches, and so the losses, of one device that works through as many parts."""

import csv

import numpy as np
import pytest
from mixture_sets import MIX, write_sets
from tasks_setup import SMALL

ACT = [
    "model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32", "model.image_size=[32,32]", "model.dropout=0",
    "trainer.batch_size=4", "trainer.accelerator=cpu",
]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"))


def losses(xp, sets, name, *more):
    """The loss of each update."""
    xp("task=train", "data=mix", MIX.format(folder=sets), "data.fps=10", "trainer.steps=6", "trainer.log_every=1",
       "trainer.val_every=null", f"hydra.run.dir={name}", *more)  # fmt: skip
    with (xp.cwd / name / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    return [float(row["loss"]) for row in rows]


def test_two_torch_processes_learn_what_one_does_in_two_parts(xp, sets):
    one = losses(xp, sets, "one", *ACT, "trainer.accumulate=2")
    two = losses(xp, sets, "two", *ACT, "trainer.devices=2")
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_two_jax_devices_learn_what_one_does(xp, sets, monkeypatch):
    one = losses(xp, sets, "one", *SMALL)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    two = losses(xp, sets, "two", *SMALL, "trainer.sharding=data")
    np.testing.assert_allclose(two, one, rtol=1e-4)
