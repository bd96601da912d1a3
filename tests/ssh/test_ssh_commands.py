"""`xp task=cancel`, `attach` and `status` on jobs at ssh hosts, from another process than the one that began them."""

import os
import pwd
import signal
import subprocess
import sys
import time

import pytest
from ssh_site import ALONE, expected, wait_for

from xp.runs import State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def xp(site, *overrides: str, columns: int = 200) -> subprocess.Popen:
    """`xp ...` in the site's folder."""
    env = {**site.env, "COLUMNS": str(columns), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "xp", *overrides], cwd=site.folder, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in what a script starts
    )  # fmt: skip


def told(site, *overrides: str, columns: int = 200, code: int = 0) -> str:
    process = xp(site, *overrides, columns=columns)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == code, output
    return output


@pytest.fixture
def gates(pair):
    """A file at each node; while it is there, a job with work.hold=gate waits in its second step."""
    found = [box.home / "gate" for box in pair.boxes]
    for gate in found:
        gate.write_text("")
    return found


def state(site, name: str) -> State:
    return site.job(name).record().state


def test_cancel_ends_what_runs_and_what_waits_and_the_same_command_goes_on(site, pair, gates):
    command = ["seed=1,2,3", "work.hold=gate", "work.steps=4"]
    code, output = site.run(*command)
    assert code == 0 and output.count("submitted: ") == 3, output
    wait_for(lambda: sum(state(site, f"seed_{seed}") is State.RUNNING for seed in (1, 2, 3)) == 2, "two jobs at work")
    output = told(site, "task=cancel", f"cancel.folder={site.folder}/multirun/sweep")
    assert "ssh: cancelled " in output and "the same command that started it goes on" in output
    site.wait_until_over()
    assert not any(box.jobs() for box in pair.boxes)
    assert all(site.job(f"seed_{seed}").record().state is not State.RUNNING for seed in (1, 2, 3)), site.log()
    shown = told(site, "task=status")
    assert "running" not in shown and "queued" not in shown and site.results() == {}
    assert "Nothing waits or runs there." in told(site, "task=cancel")
    for gate in gates:
        gate.unlink()
    code, output = site.run(*command, "hydra.launcher.detach=false")
    assert code == 0 and output.splitlines()[-1] == "3 done", output
    assert site.results() == {f"seed_{seed}": expected(seed, 4) for seed in (1, 2, 3)}


def test_attach_follows_a_job_at_a_host_until_its_end(site, gates):
    site.run("seed=1", "work.hold=gate")
    wait_for(lambda: state(site, ALONE) is State.RUNNING, "the job at work")
    follower = xp(site, "task=attach", f"attach.run={site.folder}/multirun/sweep/{ALONE}")
    for gate in gates:
        gate.unlink()
    output = follower.communicate(timeout=120)[0]
    assert follower.returncode == 0, output
    assert "counting" in output and output.splitlines()[-1].startswith("done: ")


def test_ctrl_c_leaves_an_attached_job_at_work(site, gates):
    site.run("seed=1", "work.hold=gate")
    wait_for(lambda: state(site, ALONE) is State.RUNNING, "the job at work")
    follower = xp(site, "task=attach", "attach.run=null")  # the only one that runs
    assert follower.stdout is not None and follower.stdout.readline().startswith("running on xp-node")
    follower.send_signal(signal.SIGINT)
    output = follower.communicate(timeout=60)[0]
    assert follower.returncode == 0 and f"{ALONE} goes on" in output
    for gate in gates:
        gate.unlink()
    site.wait_until_over()
    assert site.results() == {ALONE: expected(1, 3)}


def test_attach_tells_of_a_job_that_failed(site):
    site.run("seed=1", "work.fail=true")
    output = told(site, "task=attach", f"attach.run={site.folder}/multirun/sweep/{ALONE}", code=1)
    assert output.splitlines()[-1].startswith("failed: ") and "told to fail" in output.splitlines()[-1]


def test_status_names_jobs_and_hosts_in_eighty_columns(site, gates):
    site.run("+experiment=chain", "work.hold=gate")
    wait_for(lambda: site.job("pretrain", "chain").record().state is State.RUNNING, "the first job at work")
    shown = told(site, "task=status", "status.live=false", columns=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "chain: " in shown and " queued" in shown
    (line,) = [line for line in shown.splitlines() if "pretrain" in line and "running" in line]
    assert "xp-node" in line or "node" in line
    for gate in gates:
        gate.unlink()
    site.wait_until_over("chain")
    shown = told(site, "task=status", columns=80)
    assert "14 done" in shown and max(map(len, shown.splitlines())) <= 80


SLOW = """#!/bin/sh
# an interpreter that takes its time before a job begins
case "$*" in *_job*) while [ -e "$HOME/gate" ]; do sleep 0.05; done ;; esac
exec {python} "$@"
"""


def test_a_job_whose_process_has_not_begun_yet_is_cancelled_too(site, pair, gates):
    home, slow = pwd.getpwuid(os.getuid()).pw_dir, pair["node1"].home / "slow"  # as the node sees it, and from outside
    slow.write_text(SLOW.format(python=sys.executable))
    slow.chmod(0o755)
    code, output = site.run("seed=1", f"hydra.launcher.python={home}/slow", hosts=("node1",))
    assert code == 0, output
    wait_for(lambda: pair["node1"].jobs(), "a process for the job")
    until = time.monotonic() + 2.0  # several times as long as between two looks at what the job has written
    while time.monotonic() < until:
        assert site.job(ALONE).record().get("handle") == str(site.job(ALONE).path)
        time.sleep(0.02)
    site.kill_keeper()
    assert "ssh: cancelled " in told(site, "task=cancel", f"cancel.folder={site.folder}/multirun/sweep/{ALONE}")
    site.wait_until_over()
    assert site.states() == {ALONE: "interrupted"} and not pair["node1"].jobs()
