"""The released size: loading costs what reading the file costs, in time and memory, and saving is exact."""

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xp.models import load_policy

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("octo_full_size.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """octo-base-1.5 with random weights, 810 MB."""
    from octo_full_size import write

    path = tmp_path_factory.mktemp("full") / "octo-base-1.5"
    write(path)
    return path


def test_loading_takes_the_time_of_reading_and_transfer_and_the_memory_of_the_file(folder):
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["file_bytes"] > 8e8
    assert min(found["load_s"]) < 1.5 * min(found["floor_s"]), found
    assert found["peak_bytes"] < 1.3 * found["file_bytes"], found


def test_every_leaf_is_loaded_and_what_is_saved_is_the_same_file(folder, tmp_path):
    policy = load_policy(folder)
    assert len(policy.weights()) == 366
    policy.save(tmp_path / "again")
    checkpoint = "300000/default/checkpoint"
    assert filecmp.cmp(folder / checkpoint, tmp_path / "again" / checkpoint, shallow=False)
    again = load_policy(tmp_path / "again")
    ours, theirs = policy.weights(), again.weights()
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)
