"""The main job itself on two nodes without shared files: handed over, the controller killed, everything arrives."""

import json
import os
import signal
import subprocess
import sys

import pytest
from ssh_site import wait_for

from xp.runs import State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_multi_horizon_arrives_with_all_cells_and_the_report(site, pair, monkeypatch):
    monkeypatch.setattr("ssh_site.PATIENCE_S", 1500)
    launcher = [each for each in site.settings() if "PYTHONPATH" not in each]
    offline = "+hydra.launcher.env.HF_HUB_OFFLINE=1"
    command = [sys.executable, "-m", "xp", "+experiment=multi_horizon", "-m", "debug=fast", "hydra/launcher=ssh",
               "experiment.closed_loop=false"]  # fmt: skip
    before = [box.connections for box in pair.boxes]
    process = subprocess.Popen(
        [*command, *launcher, offline], cwd=site.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: site.store("multi_horizon_fast").attended or process.poll() is not None, "the keeper")
    os.killpg(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    site.wait_until_over("multi_horizon_fast")
    folder = site.folder / "multirun" / "multi_horizon_fast"
    records = {path.parent.name: site.job(path.parent.name, "multi_horizon_fast").record()
               for path in folder.glob("*/record.json")}  # fmt: skip
    wrong = {name: dict(record) for name, record in records.items() if record.state is not State.DONE}
    assert not wrong and len(records) == 15, (wrong, output, site.log("multi_horizon_fast"))
    hosts = {record["host"] for name, record in records.items() if name != "report"}
    assert hosts == {"xp-node1", "xp-node2"}
    cells = [row for row in json.loads((folder / "summary.json").read_text()) if row.get("task") == "predict"]
    assert len(cells) == 9 or len(list(folder.glob("train_h*/metrics.json"))) == 9
    page = (folder / "report.html").read_text()
    assert "Hosts by time" in page and "xp-node2" in page
    assert all(box.connections - was <= 8 for box, was in zip(pair.boxes, before))
