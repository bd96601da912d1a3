"""Resuming, and doing other things meanwhile, never changes what is learned."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from training_fakes import (
    LR,
    TinyBatches,
    final_weights,
    rows_without_time,
    run_in,
    same_bytes,
    tiny_trainable,
    trainer,
)

from xp.errors import UserError
from xp.runs import RunInterrupted
from xp.training.jax.loop import train
from xp.training.validation import ValidationProgress


def validate(policy, step):
    return {"val_loss": policy.loss(TinyBatches(seed=7).at(0))["loss"]}


def train_in(folder, *, stop_after=None, with_validation=True, seed=3, **options):
    options = trainer(**{"val_every": 3, "ema_decay": 0.9, **options})
    run = run_in(folder, stop_after=stop_after)
    check = validate if with_validation else None
    return train(run, tiny_trainable(), TinyBatches(), validate=check, trainer=options, lr=LR, seed=seed)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    train_in(folder)
    return folder


def state_bytes(folder: Path, step: int) -> bytes:
    return (folder / "checkpoints" / f"checkpoint-{step}" / "training_state" / "state.safetensors").read_bytes()


@pytest.mark.parametrize("stops", [(1,), (4,), (2, 3), (7, 1, 2), (11,)])
def test_a_run_stopped_and_resumed_ends_with_the_same_bytes(tmp_path, straight, stops):
    for stop in stops:
        with pytest.raises(RunInterrupted):
            train_in(tmp_path, stop_after=stop)
    train_in(tmp_path)
    assert same_bytes(final_weights(tmp_path), final_weights(straight))
    assert state_bytes(tmp_path, 12) == state_bytes(straight, 12)
    for name in ("training_log.csv", "validation_log.csv"):
        assert rows_without_time(tmp_path / name) == rows_without_time(straight / name)
    assert same_bytes_of_policy(tmp_path / "best", straight / "best")


def same_bytes_of_policy(one: Path, other: Path) -> bool:
    return (one / "policy.safetensors").read_bytes() == (other / "policy.safetensors").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"with_validation": False},
        {"val_every": 1},
        {"val_every": 5, "checkpoint_every": 1},
        {"checkpoint_every": None},
        {"log_every": 1},
        {"keep_checkpoints": 1},
    ],
)
def test_validating_logging_and_checkpointing_never_change_the_weights(tmp_path, straight, options):
    train_in(tmp_path, **options)
    assert same_bytes(final_weights(tmp_path), final_weights(straight))


@pytest.mark.parametrize(("at", "step"), [(1, 3), (2, 6), (4, 12)])
def test_a_validation_is_left_within_a_batch_when_asked_and_the_resumed_run_ends_the_same(tmp_path, straight, at, step):
    """A checkpoint of that step stands before the run is interrupted, and the validation is made again."""
    asked, begun = [], []
    run = run_in(tmp_path)
    run.should_stop = lambda: bool(asked)

    def validation(policy, step):
        begun.append(step)
        follow = ValidationProgress(run, 24).begin(step)
        for _ in range(3):
            follow(0)
            assert not asked, "a batch after the request"
            if len(begun) == at:
                asked.append(step)
            follow(8) if not asked else None
        return validate(policy, step)

    options = {"trainer": trainer(val_every=3, ema_decay=0.9), "lr": LR, "seed": 3}
    with pytest.raises(RunInterrupted, match=f"checkpoint-{step} is written"):
        train(run, tiny_trainable(), TinyBatches(), validate=validation, **options)
    assert begun[-1] == step and (tmp_path / "checkpoints" / f"checkpoint-{step}").is_dir()
    rows = rows_without_time(tmp_path / "validation_log.csv") if at > 1 else []
    assert [row[0] for row in rows[1:]] == [str(done) for done in begun[:-1]]
    train_in(tmp_path)
    assert same_bytes(final_weights(tmp_path), final_weights(straight))
    assert state_bytes(tmp_path, 12) == state_bytes(straight, 12)
    for name in ("training_log.csv", "validation_log.csv"):
        assert rows_without_time(tmp_path / name) == rows_without_time(straight / name)
    assert same_bytes_of_policy(tmp_path / "best", straight / "best")


def test_a_validation_whose_row_is_written_is_not_made_again_and_one_without_is(tmp_path):
    options = {"trainer": trainer(steps=10, val_every=5, checkpoint_every=5), "lr": LR, "seed": 3}
    made = []

    def failing(policy, step):
        made.append(step)
        if step == 10:
            raise KeyboardInterrupt
        return {"val_loss": 1.0}

    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path), tiny_trainable(), TinyBatches(), validate=failing, **options)
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-10")
    with pytest.raises(KeyboardInterrupt):
        train(run_in(tmp_path), tiny_trainable(), TinyBatches(), validate=failing, **options)
    assert made == [5, 10, 10]
    meta = json.loads((tmp_path / "checkpoints/checkpoint-10/training_state/state.json").read_text())["meta"]
    assert meta["best"] == {"step": 5, "metric": "val_loss", "value": 1.0}
    train(run_in(tmp_path), tiny_trainable(), TinyBatches(), validate=lambda policy, step: {"val_loss": 2.0}, **options)
    rows = rows_without_time(tmp_path / "validation_log.csv")
    assert [(row[0], row[2]) for row in rows] == [("step", "val_loss"), ("5", "1.0"), ("10", "2.0")]


def test_a_validation_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    from xp.runs.execution import progress

    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "WRITE_EVERY_S", 0.0)
    follow = ValidationProgress(run_in(tmp_path), 24).begin(6)
    follow(8)
    assert "validating at step 6: 8/24 windows" in capsys.readouterr().out
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 8


def test_another_seed_gives_other_weights(tmp_path, straight):
    train_in(tmp_path, seed=4)
    assert not same_bytes(final_weights(tmp_path), final_weights(straight))


def test_a_finished_run_given_again_only_rewrites_what_it_had(tmp_path, straight):
    train_in(tmp_path)
    log = (tmp_path / "training_log.csv").read_text()
    train_in(tmp_path)
    assert (tmp_path / "training_log.csv").read_text() == log
    assert same_bytes(final_weights(tmp_path), final_weights(straight))


def test_a_truncated_newest_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path, straight, capsys):
    with pytest.raises(RunInterrupted):
        train_in(tmp_path, stop_after=11, checkpoint_every=5)
    state = tmp_path / "checkpoints" / "checkpoint-11" / "training_state" / "state.safetensors"
    with state.open("r+b") as file:
        file.truncate(state.stat().st_size // 2)
    train_in(tmp_path)
    said = capsys.readouterr().out
    assert "checkpoint-11 is damaged" in said and "continuing from checkpoint-10 of 12" in said
    assert (tmp_path / "checkpoints" / "checkpoint-11.damaged").is_dir()
    assert same_bytes(final_weights(tmp_path), final_weights(straight))
    assert rows_without_time(tmp_path / "training_log.csv") == rows_without_time(straight / "training_log.csv")


def test_one_flipped_bit_in_a_checkpoint_is_noticed(tmp_path, straight, capsys):
    with pytest.raises(RunInterrupted):
        train_in(tmp_path, stop_after=6)
    state = tmp_path / "checkpoints" / "checkpoint-6" / "training_state" / "state.safetensors"
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(data)
    train_in(tmp_path)
    assert "checkpoint-6 is damaged" in capsys.readouterr().out
    assert same_bytes(final_weights(tmp_path), final_weights(straight))


def test_with_every_checkpoint_damaged_training_starts_anew_and_ends_the_same(tmp_path, straight):
    with pytest.raises(RunInterrupted):
        train_in(tmp_path, stop_after=7)
    for state in tmp_path.rglob("state.json"):
        state.write_text("{")
    train_in(tmp_path)
    assert rows_without_time(tmp_path / "training_log.csv") == rows_without_time(straight / "training_log.csv")
    assert same_bytes(final_weights(tmp_path), final_weights(straight))


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 9}, "seed"), ({"ema_decay": None}, "ema/"), ({"freeze": ["trunk*"]}, "frozen")]
)
def test_a_checkpoint_of_another_training_run_is_refused_by_name(tmp_path, change, named):
    with pytest.raises(RunInterrupted):
        train_in(tmp_path, stop_after=3)
    with pytest.raises(UserError, match=named):
        train_in(tmp_path, **change)


def test_frozen_weights_may_not_change_between_attempts(tmp_path):
    options, model = trainer(freeze=["trunk*"]), tiny_trainable()
    with pytest.raises(RunInterrupted):
        train(run_in(tmp_path, stop_after=2), model, TinyBatches(), validate=None, trainer=options, lr=LR, seed=0)
    model.weights["trunk"]["dense"]["kernel"] = model.weights["trunk"]["dense"]["kernel"] + np.float32(1)
    with pytest.raises(UserError, match="frozen"):
        train(run_in(tmp_path), model, TinyBatches(), validate=None, trainer=options, lr=LR, seed=0)


SCRIPT = """
    import os, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from training_fakes import LR, TinyBatches, run_in, tiny_trainable, trainer
    from test_training_resume import validate
    from xp.training.jax.loop import train
    folder, kill_at, where = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    run = run_in(folder)
    if where == "step":
        count, inner = 0, run.should_stop
        def dying():
            global count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), 9)
            return inner()
        run.should_stop = dying
    elif where == "checkpoint":
        import xp.training.checkpoints as checkpoints
        inner, saved = checkpoints.write_arrays, 0
        def dying(path, arrays):
            global saved
            saved += 1
            stored = inner(path, arrays)
            if saved == kill_at:
                os.kill(os.getpid(), 9)
            return stored
        checkpoints.write_arrays = dying
    options = trainer(val_every=3, ema_decay=0.9)
    train(run, tiny_trainable(), TinyBatches(), validate=validate, trainer=options, lr=LR, seed=3)
"""


@pytest.mark.parametrize(("kill_at", "where"), [(8, "step"), (2, "checkpoint")])
def test_a_run_killed_with_signal_9_and_resumed_ends_with_the_same_bytes(tmp_path, straight, kill_at, where):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent))))
    folder = tmp_path / "run"
    command = [sys.executable, str(script), str(folder), str(kill_at), where]
    killed = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "final").exists()
    train_in(folder)
    assert same_bytes(final_weights(folder), final_weights(straight))
    assert state_bytes(folder, 12) == state_bytes(straight, 12)
    assert rows_without_time(folder / "training_log.csv") == rows_without_time(straight / "training_log.csv")
    assert rows_without_time(folder / "validation_log.csv") == rows_without_time(straight / "validation_log.csv")
    assert not [path for path in folder.rglob("*") if ".tmp-" in path.name]
