"""kill -9 at a random moment, the same command again: the weights are those of a run that was never disturbed."""

import os
import random
import signal
import time

import pytest
from tasks_setup import EVERY, SMALL, weights_of

from xp.runs import load_run

TORCH = [
    "model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32", "model.image_size=[32,32]",
    "trainer.batch_size=4", "trainer.val_windows=8",
]  # fmt: skip


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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", [SMALL, TORCH], ids=["jax", "torch"])
def test_a_finished_run_gets_more_steps_is_killed_among_them_and_ends_in_the_same_bytes(xp, arm, model):
    command = ["task=train", f"data.root={arm}", *model, *EVERY, "lr=cosine", "lr.warmup_steps=2"]
    xp(*command, "trainer.steps=6", "hydra.run.dir=run")
    more = [*command, "trainer.steps=40"]
    assert "lr.extend=stretch" in xp(*more, "hydra.run.dir=run", code=2).stderr
    refused = xp(*more, "lr.extend=stretch", "seed=0,1", "-m", "hydra.sweep.dir=sweep", code=2).stderr
    assert "no finished training in a sweep" in refused and not (xp.cwd / "sweep").exists()
    process = xp.start(*more, "lr.extend=stretch", "hydra.run.dir=run")
    deadline = time.monotonic() + 400
    while step_of(xp.cwd / "run") < 12 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    xp(*more, "hydra.run.dir=run")
    xp(*more, "hydra.run.dir=whole", "lr.extensions=[{steps: 6, extend: stretch}]")
    files = [
        {path.relative_to(xp.cwd / name): path.read_bytes() for path in (xp.cwd / name / "final").rglob("*")
         if path.is_file()}
        for name in ("run", "whole")
    ]  # fmt: skip
    assert files[0] == files[1]
    assert load_run(xp.cwd / "run").record()["identity"] == load_run(xp.cwd / "whole").record()["identity"]
