"""Several devices learn what one learns, and weights lie where the sharding says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_fakes import final_weights, same_bytes

from xp.errors import UserError
from xp.training.jax.sharding import make_placement
from xp.training.options import TrainerOptions


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    script = Path(__file__).with_name("sharded_process.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["data", "fsdp"])
def test_two_devices_learn_what_one_learns(trained, kind):
    folder, said = trained
    assert said["devices"] == 2
    one, two = final_weights(folder / "none"), final_weights(folder / kind)
    assert one.keys() == two.keys()
    for path, array in one.items():
        np.testing.assert_allclose(two[path], array, rtol=1e-4, atol=1e-6, err_msg=path)


def test_fsdp_holds_half_of_every_array_that_divides_and_data_holds_all(trained):
    layouts = trained[1]["layouts"]
    assert all(whole == part for whole, part in layouts["data"].values())
    halves = {path: np.prod(part) * 2 == np.prod(whole) for path, (whole, part) in layouts["fsdp"].items()}
    assert halves["trunk/dense/kernel"] and halves["head/kernel"] and halves["head/bias"]


def test_a_sharded_run_stopped_and_resumed_ends_with_the_same_bytes(trained):
    folder, said = trained
    assert said["stopped"]
    assert same_bytes(final_weights(folder / "stopped"), final_weights(folder / "fsdp"))


def test_one_device_cannot_share():
    with pytest.raises(UserError, match=r"JAX sees one \(cpu\).*trainer.sharding=none"):
        make_placement("data")


def test_an_unknown_sharding_is_named():
    with pytest.raises(UserError, match="did you mean 'fsdp'"):
        TrainerOptions.read({"steps": 1, "sharding": "fdsp"})
