"""The main job itself on a cluster: submitted in seconds, the controller killed at once, everything arrives."""

import json
import os
import subprocess
import sys
import time

import pytest
from slurm_cluster import wait_for

from xp.runs import State
from xp.runs.records.folder import find_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ERRORS = "experiment.closed_loop=false"
"""Without the episodes in simulation: this is about SLURM."""


def test_multi_horizon_arrives_with_all_cells_and_the_report(on_slurm, place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    launcher = ["hydra/launcher=slurm", "hydra.launcher.gpus=1", "hydra.launcher.mem_gb=1.9", "hydra.launcher.cpus=1"]
    command = [sys.executable, "-u", "-m", "xp", "+experiment=multi_horizon", "-m", "debug=fast", ERRORS, *launcher]
    began = time.monotonic()
    controller = subprocess.Popen(
        [*command, "hydra.launcher.detach=false"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert controller.stdout is not None
    output = []
    for line in controller.stdout:
        output.append(line)
        if line.startswith("submitted: report/report"):
            break
    took = time.monotonic() - began
    controller.kill()
    _, _, used = os.wait4(controller.pid, 0)
    controller.stdout.close()
    print(f"submitted after {took:.2f} s, {used.ru_utime + used.ru_stime:.2f} s of them at work")
    assert sum(line.startswith("submitted: ") for line in output) == 15, "".join(output)
    assert used.ru_utime + used.ru_stime < 3.0  # the processor's time: a busy machine stretches the clock's

    folder = place / "multirun" / "multi_horizon_fast"
    wait_for(lambda: all(run.record().state in (State.DONE, State.FAILED) for run in find_runs(folder)), 1500, 0.5)
    records = {run.name: run.record() for run in find_runs(folder)}
    wrong = {name: dict(record) for name, record in records.items() if record.state is not State.DONE}
    assert not wrong and len(records) == 15, wrong
    assert {record["attempts"] for record in records.values()} == {1}
    assert {record["node"] for record in records.values()} == {"n1", "n2"}
    cells = {row["run"] for row in json.loads((folder / "summary.json").read_text())}
    assert cells == {f"train_h{trained}_pred_h{asked}" for trained in (1, 4, 8) for asked in (1, 4, 8)}
    assert "Hosts by time" in (folder / "report.html").read_text()
