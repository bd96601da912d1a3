"""GPUs of nodes that somebody else uses: jobs wait or go elsewhere, and status says so. nvidia-smi is a script."""

from pathlib import Path

import pytest
from ssh_site import expected, wait_for
from test_ssh_commands import told

from hydra_plugins.xp_executor_base import _gpus


def gpu(box, used_mb: int) -> None:
    """Give a node a GPU of which a process of somebody else holds so much."""
    folder, uuid = box.home / "smi", f"GPU-of-{box.namespace}"
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(
        f"""#!/bin/sh
case "$1" in
  --list-gpus) echo "GPU 0: Made up (UUID: {uuid})";;
  --query-gpu=*) echo "0, {uuid}, {used_mb}, 24000";;
  --query-compute-apps=*) [ {used_mb} = 0 ] || echo "{uuid}, 1, {used_mb}, python";;
esac
"""
    )
    (folder / "nvidia-smi").chmod(0o755)
    (box.home / ".bashrc").write_text('PATH="$HOME/smi:$PATH"\n')


@pytest.fixture(autouse=True)
def no_locks_left(pair):
    """The nodes lock their made-up GPUs where this machine keeps locks of all accounts."""
    yield
    for box in pair.boxes:
        Path(_gpus.lock_folder(), f"xp-gpu-GPU-of-{box.namespace}.lock").unlink(missing_ok=True)


@pytest.mark.timeout(300)
def test_jobs_keep_away_from_a_gpu_that_somebody_fills_and_take_it_when_it_is_free(site, pair):
    one, two = pair["node1"], pair["node2"]
    gpu(one, 20000)
    gpu(two, 0)
    code, output = site.run("seed=1,2", "hydra.launcher.detach=false")
    assert code == 0, output + site.log()
    assert {site.job(f"seed_{seed}").record()["host"] for seed in (1, 2)} == {"xp-node2"}
    gpu(two, 9000)
    code, output = site.run("seed=1,2,3", "work.steps=3")
    assert code == 0, output
    wait_for(lambda: "node2 waits" in site.log(), "a look at the GPUs")
    status = told(site, "task=status", "status.live=false")
    assert "node1 waits: GPU 0: 19.5 of 23.4 GB in use by process 1 (python)" in status.split("seed_3")[0], status
    assert site.store("sweep").state()["jobs"][str(site.job("seed_3").path)]["attempt"] <= 1
    gpu(one, 0)
    site.wait_until_over()
    assert site.results() == {f"seed_{seed}": expected(seed, 3) for seed in (1, 2, 3)}
    assert site.job("seed_3").record()["host"] == "xp-node1"
