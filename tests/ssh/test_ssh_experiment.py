"""Whole experiments on two nodes without shared files: handed over, left alone, and all of it arrives."""

import json
import os
import signal

import pytest
from ssh_site import expected, wait_for

from xp.runs import State

pytestmark = pytest.mark.timeout(300)
CELLS = [f"train_h{trained}_pred_h{predicted}" for trained in (1, 4, 8) for predicted in (1, 4, 8)]


def values() -> dict[str, str]:
    """Every result of the chain, computed here."""
    shape = "{{'train': {}, 'predict': {}}}".format
    found = {"pretrain": expected(0, 3, "", shape(0, 0))}
    for trained in (1, 4, 8):
        found[f"horizon_{trained}"] = expected(0, 3, found["pretrain"], shape(trained, 0))
        for predicted in (1, 4, 8):
            before = found[f"horizon_{trained}"]
            found[f"train_h{trained}_pred_h{predicted}"] = expected(0, 3, before, shape(trained, predicted))
    return found


def test_all_cells_and_the_report_arrive_though_the_controller_is_killed_at_once(site, pair):
    before = [box.connections for box in pair.boxes]
    process = site.start("+experiment=chain")
    wait_for(lambda: site.store().attended or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    site.wait_until_over("chain")
    assert site.results("chain") == values()
    assert sorted(json.loads((site.folder / "multirun/chain/report.html").read_text())) == sorted(values())
    hosts = {name: site.job(name, "chain").record()["host"] for name in [*values(), "report"]}
    assert set(hosts.values()) - {hosts["report"]} == {"xp-node1", "xp-node2"}
    for name in values():
        record = site.job(name, "chain").record()
        assert record.state is State.DONE and record["attempts"] == 1 and record["executor"] == "ssh"
    assert [box.connections - was for box, was in zip(pair.boxes, before)] == [1, 1]


@pytest.mark.slow
def test_the_same_command_again_finds_everything_done(site):
    code, output = site.run("seed=1,2", "hydra.launcher.detach=false")
    assert code == 0 and output.splitlines()[-1] == "2 done", output
    code, output = site.run("seed=1,2", "hydra.launcher.detach=false")
    assert code == 0 and output.splitlines()[-3:] == [
        "2 of 2 done, nothing to run",
        "  look:   xp task=status status.folder=multirun/sweep",
        "  report: xp task=report report.folder=multirun/sweep",
    ], output
    assert site.results() == {"seed_1": expected(1, 3), "seed_2": expected(2, 3)}
