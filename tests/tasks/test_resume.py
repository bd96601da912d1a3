"""kill -9 at a random moment, the same command again: the weights are those of a run that was never disturbed."""

import os
import random
import signal
import time

import pytest
from tasks_setup import EVERY, SMALL, weights_of


def step_of(run):
    """The last step that progress.json or the log tells of."""
    try:
        return int((run / "training_log.csv").read_text().splitlines()[-1].split(",")[0])
    except (OSError, ValueError, IndexError):
        return 0


@pytest.mark.parametrize("attempt", range(3))
def test_kill_9_at_a_random_step_and_resume_gives_the_same_weights(xp, arm, trained, attempt):
    draw = random.Random(f"{attempt}-{os.getpid()}")
    target, delay = draw.randint(2, 10), draw.random() * 0.3
    command = ["task=train", f"data.root={arm}", *SMALL, "trainer.steps=12", *EVERY, "hydra.run.dir=run"]
    process = xp.start(*command)
    run = xp.cwd / "run"
    deadline = time.monotonic() + 240
    while step_of(run) < target and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    xp(*command)
    assert weights_of(run) == weights_of(trained), f"killed after step {target} + {delay:.2f} s"
    rows = [line.split(",")[0] for line in (run / "training_log.csv").read_text().splitlines()[1:]]
    assert rows == [line.split(",")[0] for line in (trained / "training_log.csv").read_text().splitlines()[1:]]


def test_an_augmented_run_that_is_killed_ends_in_the_same_weights(xp, arm, trained):
    """The pictures of a step are the same after a resumption, and others than those without augmentation."""
    command = ["task=train", f"data.root={arm}", *SMALL, "trainer.steps=12", *EVERY, "augment=octo"]
    xp(*command, "hydra.run.dir=whole")
    process = xp.start(*command, "hydra.run.dir=run")
    deadline = time.monotonic() + 240
    while step_of(xp.cwd / "run") < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    xp(*command, "hydra.run.dir=run")
    assert weights_of(xp.cwd / "run") == weights_of(xp.cwd / "whole") != weights_of(trained)


def test_a_run_that_streams_is_killed_resumed_and_ends_in_the_weights_of_one_that_cached_its_frames(xp, arm, trained):
    command = ["task=train", f"data.root={arm}", *SMALL, "trainer.steps=12", *EVERY, "data.frames=stream"]
    command += ["data.workers=1", "hydra.run.dir=run"]
    process = xp.start(*command)
    deadline = time.monotonic() + 240
    while step_of(xp.cwd / "run") < 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    xp(*command)
    assert weights_of(xp.cwd / "run") == weights_of(trained)
