"""`task=eval` with worker processes: any number gives the same bytes; killed it goes on; nobody is left behind."""

import os
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ASK = ["env.tasks=[push_red]", "eval.episodes=5", "eval.batch=4", "env.max_steps=8", "eval.videos=1"]
LONG = [
    "env.tasks=[push_red]",
    "eval.episodes=30",
    "eval.batch=4",
    "env.max_steps=40",
    "eval.videos=0",
    "eval.workers=2",
]
RESULTS = ("metrics.json", "episodes.csv", "summary.json")


def bytes_of(run):
    return {name: (run / name).read_bytes() for name in RESULTS}


def test_any_number_of_workers_gives_the_same_bytes(xp, trained):
    for workers in (1, 2, 3):
        xp("task=eval", f"eval.checkpoint={trained}", *ASK, f"eval.workers={workers}", f"hydra.run.dir=w{workers}")
    one, two, three = (bytes_of(xp.cwd / f"w{workers}") for workers in (1, 2, 3))
    assert one == two == three
    assert len(one["episodes.csv"].splitlines()) == 1 + 2 * 5


def children(pid):
    """Processes that a process has started and that are at work."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def finished(run):
    try:
        return len((run / "episodes.csv").read_text().splitlines()) - 1
    except OSError:
        return 0


def started(xp, trained, folder, episodes):
    """An evaluation at work with some episodes finished, and its workers."""
    process = xp.start("task=eval", f"eval.checkpoint={trained}", *LONG, f"hydra.run.dir={folder}")
    until = time.monotonic() + 600
    while finished(xp.cwd / folder) < episodes and time.monotonic() < until:
        assert process.poll() is None, (xp.cwd / folder / "log.txt").read_text()
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) == 2
    return process, workers


def all_gone(pids):
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_killed_or_interrupted_it_goes_on_with_the_episodes_that_are_left(xp, trained):
    xp("task=eval", f"eval.checkpoint={trained}", *LONG, "hydra.run.dir=whole")
    process, workers = started(xp, trained, "run", 5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert all_gone(workers)
    before = finished(xp.cwd / "run")
    assert 5 <= before < 60

    process, workers = started(xp, trained, "run", before + 5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) == 128 + signal.SIGINT
    assert all_gone(workers)
    assert f"{before} of 60 episodes were finished before" in (xp.cwd / "run/log.txt").read_text()
    between = finished(xp.cwd / "run")

    done = xp("task=eval", f"eval.checkpoint={trained}", *LONG, "hydra.run.dir=run")
    assert f"{between} of 60 episodes were finished before" in done.stdout
    assert bytes_of(xp.cwd / "run") == bytes_of(xp.cwd / "whole")
