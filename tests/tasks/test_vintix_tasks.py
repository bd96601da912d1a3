"""Vintix by the command line: trained on trajectories, killed and resumed in the same bytes, and asked."""

import csv
import random
import signal
import time

import numpy as np
import pytest

from xp.data import writing_format

MODEL = [
    "model=vintix_tiny", "horizon=h1", "model.context_len=16", "model.observation_emb_dim=15",
    "model.action_emb_dim=15", "model.intermediate_size=32", "model.attn_dropout=0.1",
]  # fmt: skip
RUN = [
    "task=train", "trainer.steps=24", "trainer.batch_size=8", "trainer.val_windows=16", "trainer.val_every=6",
    "trainer.checkpoint_every=3", "trainer.log_every=2", "lr.warmup_steps=2", "data.val_fraction=0.34",
]  # fmt: skip


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """Two robots of unlike widths with three histories each; attempts of one step to a few dozen."""
    root, draw = tmp_path_factory.mktemp("trajectories"), np.random.default_rng(0)
    for task, state, action in (("bug", 4, 2), ("dog", 7, 3)):
        mixing = draw.normal(size=(state, action))
        names = {"state_names": [f"s{i}" for i in range(state)], "action_names": [f"a{i}" for i in range(action)]}
        format = writing_format("vintix", "collect.format")
        with format.create(root / task, fps=50, cameras={}, robot_type=task, **names) as writer:
            for history in range(3):
                for length in draw.integers(1, 30, size=5):
                    seen = draw.normal(size=(length, state))
                    reward = draw.normal(size=length)
                    writer.add_episode(task, {}, seen, np.tanh(seen @ mixing), reward=reward, history=history)
    return root


def _rows(path):
    return len(path.read_text().splitlines()) if path.is_file() else 0


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bytes(xp, trajectories):
    command = [*RUN, *MODEL, f"data.root={trajectories}"]
    xp(*command, "hydra.run.dir=whole", timeout=900)
    kills = random.Random(0)
    for _ in range(2):
        process = xp.start(*command, "hydra.run.dir=killed")
        log = xp.cwd / "killed" / "training_log.csv"
        wanted, deadline = _rows(log) + kills.randint(2, 4), time.monotonic() + 600
        while _rows(log) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    xp(*command, "hydra.run.dir=killed", timeout=900)
    files = [xp.cwd / name / "final" / "model.pth" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_run_learns_is_asked_and_is_started_from(xp, trajectories):
    xp(*RUN, *MODEL, f"data.root={trajectories}", "trainer.steps=200", "trainer.val_every=10", "lr.peak=3e-3",
       "trainer.checkpoint_every=null", "hydra.run.dir=run")  # fmt: skip
    with (xp.cwd / "run" / "validation_log.csv").open() as file:
        errors = [float(row["l1_error"]) for row in csv.DictReader(file)]
    assert errors[-1] < 0.8 * errors[0]
    xp("task=predict", "predict.checkpoint=run", "hydra.run.dir=asked")
    assert (xp.cwd / "asked" / "summary.json").is_file()
    done = xp(*RUN, "model=vintix_tiny", *[f"model.{key}=null" for key in SIZES], "horizon=h1", "trainer.steps=2",
              f"data.root={trajectories / 'dog'}", "pretrained_path=run", "hydra.run.dir=again")  # fmt: skip
    assert "weights loaded" in done.stdout + done.stderr


SIZES = ("context_len", "observation_emb_dim", "action_emb_dim", "intermediate_size", "attn_dropout")


def test_mistakes_are_one_paragraph(xp, trajectories):
    said = xp(*RUN, *MODEL, f"data.root={trajectories}", "horizon=h4", "hydra.run.dir=bad", code=2)
    assert "horizon=h1" in said.stdout + said.stderr and "Traceback" not in said.stderr
