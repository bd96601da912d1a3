"""A training on two devices through the command line: losing a process, being killed, being asked to stop."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

SMALL = [
    "task=train", "model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32", "model.image_size=[32,32]",
    "trainer.steps=24", "trainer.batch_size=4", "trainer.val_windows=8", "trainer.val_every=12",
    "trainer.checkpoint_every=2", "trainer.log_every=1", "trainer.devices=2", "trainer.accelerator=cpu",
]  # fmt: skip


def lines(path):
    return len(path.read_text().splitlines()) if path.is_file() else 0


def child_of(process):
    """The other process of a training."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (found,) = [
        int(pid) for pid in children if b"xp.tasks._lib.launch_ranks" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return found


def is_there(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def disturb(xp, command, more, act):
    """Start, wait until `more` steps are logged, do `act(process, child)`; the exit code, once both are gone."""
    log = xp.cwd / "hurt" / "training_log.csv"
    process, wanted = xp.start(*command, "hydra.run.dir=hurt"), max(1, lines(log)) + more
    end = time.monotonic() + 300
    while lines(log) < wanted and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before it was disturbed"
    child = child_of(process)
    act(process, child)
    code = process.wait(120)
    end = time.monotonic() + 20
    while is_there(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_there(child)
    return code


@pytest.mark.slow
def test_whatever_happens_to_its_processes_the_same_command_ends_in_the_same_bytes(xp, arm):
    command = [*SMALL, f"data.root={arm}"]
    xp(*command, "hydra.run.dir=whole")
    summary = json.loads((xp.cwd / "whole/summary.json").read_text())
    assert summary["total_steps"] == 24

    assert disturb(xp, command, 3, lambda process, child: os.kill(child, signal.SIGKILL)) == 1
    record = json.loads((xp.cwd / "hurt/record.json").read_text())
    assert record["state"] == "failed"
    assert "The process of device 1 was ended by SIGKILL" in record["error"]["message"]

    assert disturb(xp, command, 3, lambda process, child: process.kill()) == -signal.SIGKILL
    assert disturb(xp, command, 3, lambda process, child: process.terminate()) == 128 + signal.SIGTERM
    xp(*command, "hydra.run.dir=hurt")
    files = [xp.cwd / name / "final/model.safetensors" for name in ("whole", "hurt")]
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = [(xp.cwd / name / "training_log.csv").read_text().splitlines() for name in ("whole", "hurt")]
    assert [row.rpartition(",")[0] for row in rows[0]] == [row.rpartition(",")[0] for row in rows[1]]


@pytest.mark.slow
def test_a_mistake_is_said_once_by_the_runs_own_process(xp, arm):
    done = xp(*SMALL, f"data.root={arm}", "trainer.freeze=['*hed*']", "hydra.run.dir=run", code=2)
    said = [line for line in done.stderr.splitlines() if line.startswith("xp: ")]
    assert len(said) == 1 and "'*hed*' of trainer.freeze matches none" in said[0]


def test_devices_that_cannot_share_a_batch_are_found_before_anything_starts(xp, arm):
    done = xp(*SMALL, f"data.root={arm}", "trainer.devices=3", code=2)
    assert "trainer.batch_size=4 is shared by 3 devices" in done.stderr and "trainer.batch_size=3" in done.stderr
    done = xp(*SMALL, f"data.root={arm}", "trainer.devices=1", "trainer.strategy=fsdp", code=2)
    assert "Type trainer.devices=auto" in done.stderr
