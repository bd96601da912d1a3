"""Jobs of nodes that share no files and read a dataset of a hub: it arrives by ssh, and the hub is gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xp.runs import State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("hub", "data")]


def test_jobs_read_what_the_controller_fetched(site, pair, monkeypatch):
    from data_small import write_small
    from hub_server import Hub

    monkeypatch.setattr("ssh_site.PATIENCE_S", 600)
    hub = Hub()
    hub.add_folder("org/name", write_small(site.folder / "made", lengths=(3,) * 8))
    launcher = [each for each in site.settings() if "PYTHONPATH" not in each]
    command = [
        sys.executable, "-m", "xp", "-m", "task=split", "data.root=hf://org/name", "split.split_num=2",
        "split.seed=1,2", "hydra/launcher=ssh", *launcher,
    ]  # fmt: skip
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(site.folder / "hf"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        command, cwd=site.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    hub.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    site.wait_until_over()
    jobs = [site.job(path.parent.name) for path in (site.folder / "multirun/sweep").glob("*/record.json")]
    assert [job.record().state for job in jobs] == [State.DONE] * 2, (site.log(), done.stdout, done.stderr)
    assert all("hub/datasets/org/name" in str(job.config().data.root) for job in jobs)
