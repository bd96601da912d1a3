"""What a cluster does to jobs. Each fault must end with every result there once, as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import alive, wait_for

from xp.runs import RunFolder, State
from xp.runs.records.csvlog import read_csv

APP = Path(__file__).resolve().parent / "app"
SLURM = ("hydra/launcher=slurm", "+hydra.launcher.target=fake_tasks:run")
pytestmark = pytest.mark.timeout(600)
slow = pytest.mark.slow
"""Takes the better part of a minute, since SLURM does: its own pauses before it kills, requeues, gives a node up."""


def record(folder: Path):
    return RunFolder(folder).record()


def begun(*folders: Path) -> bool:
    """Whether all these jobs wait in their second step (begun again, they do not wait there any more)."""
    return all((folder / "state").exists() and (folder / "state").read_text() == "2" for folder in folders)


def finish(cluster, *folders: Path) -> None:
    """Wait for the jobs' ends; what SLURM has queued again starts without its two minutes of pause."""

    def over() -> bool:
        cluster.start_now()
        return all(record(folder).state in (State.DONE, State.FAILED) for folder in folders)

    wait_for(over, 300, every_s=0.3)


def results(folder: Path) -> list:
    """Everything a run has to show, without the clock's share."""
    rows = [
        {key: value for key, value in row.items() if key != "timestamp"}
        for row in read_csv(folder / "training_log.csv")
    ]
    return [RunFolder(folder).summary(), rows, (folder / "state").read_text()]


def ends(folder: Path) -> int:
    return [" ".join(line.split()[:2]) for line in (folder.parent / "journal.txt").read_text().splitlines()].count(
        f"end {folder.name}"
    )


@pytest.fixture
def job(on_slurm, xp, place):
    """A job that waits in its second step for the file `go`, and what an undisturbed run of it gives."""
    folder, go = place / "multirun" / "sweep" / "sweep", place / "go"
    overrides = ["work.steps=6", "seed=1", f"work.wait_for={go}", *SLURM]
    calm = place / "calm" / "sweep"
    assert xp("work.steps=6", "seed=1", f"work.wait_for={__file__}", f"hydra.sweep.dir={calm.parent}")[0] == 0

    def whole(attempts: int) -> None:
        assert record(folder).state is State.DONE and record(folder)["attempts"] == attempts
        assert ends(folder) == 1 and results(folder) == results(calm)

    return overrides, folder, go, whole


def test_a_job_whose_process_is_killed_is_queued_again_and_goes_on(on_slurm, xp, job):
    overrides, folder, _, whole = job
    xp(*overrides)
    wait_for(lambda: begun(folder))
    os.kill(record(folder)["pid"], signal.SIGKILL)
    finish(on_slurm, folder)
    whole(attempts=2)
    assert [each["reason"] for each in record(folder)["requeues"]] == ["died"]


@slow
def test_a_job_killed_for_its_memory_says_so_and_goes_on_with_more(on_slurm, xp, job):
    overrides, folder, go, _ = job
    overrides = [*overrides, "work.hoard_mb=600"]
    xp(*overrides, "hydra.launcher.mem_gb=0.3")
    finish(on_slurm, folder)
    assert "more memory than it had asked for" in record(folder)["error"]["message"]
    go.write_text("")
    code, _ = xp(
        *overrides, "hydra.launcher.mem_gb=2", "hydra.sweeper.retry_failed=true", "hydra.launcher.detach=false"
    )
    assert code == 0 and ends(folder) == 1 and record(folder)["attempts"] == 2


@slow
def test_a_job_at_its_time_limit_is_queued_again_and_goes_on(on_slurm, xp, job):
    overrides, folder, _, whole = job
    xp(*overrides, "hydra.launcher.time_min=1", "hydra.launcher.warn_s=50")
    wait_for(lambda: begun(folder))
    finish(on_slurm, folder)
    assert {each["reason"] for each in record(folder)["requeues"]} == {"time limit"}
    whole(attempts=record(folder)["attempts"])
    assert record(folder)["attempts"] >= 2


@slow
def test_a_preempted_job_writes_its_checkpoint_and_goes_on(on_slurm, xp, job, place):
    overrides, folder, _, whole = job
    xp(*overrides, "hydra.launcher.gpus=1", "+hydra.launcher.extra.nodelist=n1")
    wait_for(lambda: begun(folder))
    urgent = ["--partition=high", "--nodelist=n1", "--gpus-per-node=1", "--output=/dev/null", "--parsable"]
    handle = on_slurm.tell("sbatch", *urgent, "--wrap=true")
    wait_for(lambda: on_slurm.job(handle)["JobState"] == "COMPLETED")
    finish(on_slurm, folder)
    whole(attempts=2)
    assert int(on_slurm.job(record(folder)["handle"])["Restarts"]) == 1


@slow
def test_a_job_of_a_lost_node_goes_on_elsewhere(on_slurm, xp, job):
    overrides, folder, _, whole = job
    xp(*overrides)
    wait_for(lambda: begun(folder))
    node, pid = record(folder)["node"], record(folder)["pid"]
    on_slurm.kill(node)
    for number in stepds(on_slurm):
        os.kill(number, signal.SIGKILL)
    if alive(pid):
        os.kill(pid, signal.SIGKILL)
    try:
        finish(on_slurm, folder)
        whole(attempts=2)
        assert record(folder)["node"] != node
    finally:
        on_slurm.start(node)
        wait_for(lambda: on_slurm.tell("sinfo", "-h", "-t", "idle", "-o", "%D") == "2")


def stepds(cluster) -> list[int]:
    """Processes that look after the steps of this cluster's jobs."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = status.read_bytes()
            environment = (status.parent / "environ").read_bytes()
        except OSError:
            continue
        if b"slurmstepd" in text and str(cluster.folder).encode() in environment:
            found.append(int(status.parent.name))
    return found


@slow
@pytest.mark.parametrize("seed", range(3))
def test_a_controller_killed_at_any_moment_and_called_again_loses_and_doubles_nothing(on_slurm, place, seed):
    command = [sys.executable, str(APP / "app.py"), "+experiment=chain", *SLURM, "hydra.launcher.detach=false", "-m"]
    folder = place / "multirun" / "chain"
    controller = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    orders = random.Random(seed).randrange(1, 7)  # of the six arrays: before, while and after they are submitted
    wait_for(lambda: len(list((folder / ".slurm").glob("*.json"))) >= min(orders, 6))
    controller.kill()
    controller.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [" ".join(line.split()[:2]) for line in (folder / "journal.txt").read_text().splitlines()]
    assert len(lines) == 28 == len(set(lines))
