"""Jobs of a cluster that read a dataset of a hub: the controller fetches it, the hub goes away, the jobs run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import wait_for

from xp.runs import State
from xp.runs.records.folder import find_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("hub", "data")]


def test_jobs_read_what_the_controller_fetched(on_slurm, place):
    from data_small import write_small
    from hub_server import Hub

    hub = Hub()
    hub.add_folder("org/name", write_small(place / "made", lengths=(3,) * 8))
    command = [
        sys.executable, "-m", "xp", "-m", "task=split", "data.root=hf://org/name", "split.split_num=2",
        "split.seed=1,2", "hydra/launcher=slurm", "hydra.launcher.mem_gb=1.5", "hydra.launcher.cpus=1",
    ]  # fmt: skip
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    hub.stop()
    assert done.returncode == 0 and done.stdout.count("submitted: ") == 2, done.stdout + done.stderr
    folder = place / "multirun" / "sweep"
    wait_for(lambda: all(run.record().state in (State.DONE, State.FAILED) for run in find_runs(folder)), 600, 0.5)
    runs = find_runs(folder)
    assert [run.record().state for run in runs] == [State.DONE] * 2, [run.log() for run in runs]
    assert {run.record()["node"] for run in runs} <= {"n1", "n2"}
