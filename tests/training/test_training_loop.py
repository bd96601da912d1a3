"""The loop: what it writes, in which order, and what it refuses."""

import threading

import numpy as np
import pytest
from safetensors.numpy import load_file
from training_fakes import (
    LR,
    TinyBatches,
    final_weights,
    initial_weights,
    plain_loss,
    run_in,
    same_bytes,
    tiny_trainable,
    trainer,
)

from xp.errors import UserError
from xp.models.tree import flatten
from xp.runs import RunInterrupted
from xp.training.jax.loop import train
from xp.training.prefetch import prefetched


def go(folder, *, validate=None, model=None, batches=None, lr=LR, stop_after=None, seed=0, **options):
    run = run_in(folder, stop_after=stop_after)
    model, batches = model or tiny_trainable(), batches or TinyBatches()
    policy = train(run, model, batches, validate=validate, trainer=trainer(**options), lr=lr, seed=seed)
    return run, policy


def test_the_loss_falls_on_one_batch_repeated(tmp_path):
    options = {"steps": 200, "overfit_batches": 1, "log_every": 10, "checkpoint_every": None, "weight_decay": 0.0}
    run, _ = go(tmp_path, model=tiny_trainable(plain_loss, width=32), **options)
    losses = [row["loss"] for row in run.training_log.rows()]
    assert losses[-1] < 0.02 * losses[0]
    assert run.training_log.rows()[-1]["epoch"] == 200


def test_the_logs_have_the_agreed_columns_and_rows(tmp_path):
    lr = {"schedule": "linear_warmup", "peak": 0.01, "warmup_steps": 8, "end_factor": 1.0}
    run, _ = go(tmp_path, validate=lambda policy, step: {"val_loss": 1.0 / step}, val_every=5, lr=lr)
    header = (tmp_path / "training_log.csv").read_text().splitlines()[0]
    assert header == "step,epoch,loss,lr,timestamp"
    rows = run.training_log.rows()
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [row["epoch"] for row in rows] == [0.4, 0.8, 1.2]
    assert [row["lr"] for row in rows] == pytest.approx([0.01 * 3 / 8, 0.01 * 7 / 8, 0.01])
    assert [row["step"] for row in run.validation_log.rows()] == [5, 10, 12]


def test_a_logged_loss_is_the_mean_since_the_row_before(tmp_path):
    often, _ = go(tmp_path / "often", log_every=1)
    seldom, _ = go(tmp_path / "seldom", log_every=5)
    losses = np.array([row["loss"] for row in often.training_log.rows()])
    means = [losses[:5].mean(), losses[5:10].mean(), losses[10:].mean()]
    assert [row["loss"] for row in seldom.training_log.rows()] == pytest.approx(means, rel=1e-6)


def test_the_order_is_log_then_checkpoint_then_validate(tmp_path):
    seen = []

    def validate(policy, step):
        logged = (tmp_path / "training_log.csv").read_text().count("\n") - 1
        seen.append((step, logged, (tmp_path / "checkpoints" / f"checkpoint-{step}").exists()))
        return {"val_loss": 1.0}

    go(tmp_path, validate=validate, steps=4, log_every=2, val_every=2, checkpoint_every=2)
    assert seen == [(2, 1, True), (4, 2, True)]
    assert (tmp_path / "checkpoints" / "checkpoint-4").exists()


def test_validation_and_checkpoints_hold_the_moving_average_that_is_deployed(tmp_path):
    seen = {}

    def validate(policy, step):
        seen[step] = {name: array.copy() for name, array in policy.weights().items()}
        return {"val_loss": 1.0}

    _, policy = go(tmp_path, validate=validate, val_every=6, ema_decay=0.5)
    assert same_bytes(seen[12], final_weights(tmp_path))
    assert same_bytes(policy.weights(), final_weights(tmp_path))
    newest = tmp_path / "checkpoints" / "checkpoint-12"
    assert same_bytes(load_file(newest / "policy.safetensors"), final_weights(tmp_path))
    raw = load_file(newest / "training_state" / "state.safetensors")
    assert raw["weights/head/kernel"].tobytes() != final_weights(tmp_path)["head/kernel"].tobytes()


@pytest.mark.parametrize(("metric", "best"), [("val_loss", 6), ("direction_accuracy", 9)])
def test_best_holds_the_policy_of_the_best_validation(tmp_path, metric, best):
    weights = {}

    def validate(policy, step):
        weights[step] = {name: array.copy() for name, array in policy.weights().items()}
        scores = {3: (2.0, 0.1), 6: (1.0, 0.2), 9: (1.5, 0.9), 12: (float("nan"), float("nan"))}[step]
        return {"val_loss": scores[0], "direction_accuracy": scores[1]}

    go(tmp_path, validate=validate, val_every=3, best_metric=metric)
    assert same_bytes(load_file(tmp_path / "best" / "policy.safetensors"), weights[best])


def test_validation_is_off_when_val_every_is_null(tmp_path):
    go(tmp_path, validate=lambda policy, step: pytest.fail("validated"), val_every=None)
    assert not (tmp_path / "best").exists() and (tmp_path / "final").exists()


def test_frozen_weights_reach_the_saved_policy_unchanged_and_counts_are_said(tmp_path, capsys):
    go(tmp_path, freeze=["trunk/*"])
    assert "54 weights in 2 arrays are trained, 48 in 2 arrays are frozen" in capsys.readouterr().out
    start = flatten(initial_weights())
    final = final_weights(tmp_path)
    assert final["trunk/dense/kernel"].tobytes() == start["trunk/dense/kernel"].tobytes()
    assert final["head/kernel"].tobytes() != start["head/kernel"].tobytes()


def test_a_pattern_that_matches_nothing_stops_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="trainer.freeze"):
        go(tmp_path, freeze=["*transformer*"])
    assert list(tmp_path.iterdir()) == []


def test_accumulating_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(UserError, match="trainer.accumulate=3 does not divide the batch of 8"):
        go(tmp_path, accumulate=3)


def test_accumulation_and_the_whole_batch_learn_the_same(tmp_path):
    go(tmp_path / "whole", model=tiny_trainable(plain_loss), weight_decay=0.0)
    go(tmp_path / "parts", model=tiny_trainable(plain_loss), weight_decay=0.0, accumulate=4)
    for name, array in final_weights(tmp_path / "whole").items():
        np.testing.assert_allclose(final_weights(tmp_path / "parts")[name], array, rtol=1e-3, atol=1e-4)


def test_asked_to_stop_a_run_writes_a_checkpoint_and_leaves(tmp_path):
    with pytest.raises(RunInterrupted, match="checkpoint-3"):
        go(tmp_path, stop_after=3)
    assert (tmp_path / "checkpoints" / "checkpoint-3" / "training_state" / "state.json").exists()
    assert not (tmp_path / "final").exists()


def test_asked_to_stop_at_the_last_step_a_run_just_ends(tmp_path):
    go(tmp_path, stop_after=12)
    assert (tmp_path / "final").exists()


def test_two_runs_with_one_seed_are_the_same_to_the_byte(tmp_path):
    go(tmp_path / "a")
    go(tmp_path / "b")
    assert same_bytes(final_weights(tmp_path / "a"), final_weights(tmp_path / "b"))


def test_a_profile_is_written_into_the_run_folder(tmp_path, capsys):
    go(tmp_path, profile_steps=3, steps=8)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "a trace of 3 steps" in capsys.readouterr().out


def test_profiling_and_prefetching_do_not_change_the_weights(tmp_path):
    go(tmp_path / "with", profile_steps=3)
    go(tmp_path / "without")
    assert same_bytes(final_weights(tmp_path / "with"), final_weights(tmp_path / "without"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, "trainer.steps=0 must be a whole number of at least 1"),
        ({"log_every": 0}, "trainer.log_every=0"),
        ({"val_every": 0}, "trainer.val_every=null"),
        ({"precision": "bf16"}, "did you mean 'bfloat16'"),
        ({"ema_decay": 1.0}, "trainer.ema_decay=1.0"),
        ({"clip_norm": 0.0}, "trainer.clip_norm=0.0"),
        ({"weight_decay": -1.0}, "trainer.weight_decay=-1.0"),
    ],
)
def test_options_out_of_bounds_are_refused_with_what_to_type(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        go(tmp_path, **options)


def test_prefetching_gives_every_step_once_in_order_from_one_other_thread():
    threads, built = set(), []

    def make(step):
        threads.add(threading.get_ident())
        built.append(step)
        return step * step

    with prefetched(make, 3, 9, depth=2) as items:
        assert next(items) == 9
        assert max(built) <= 5
        assert list(items) == [16, 25, 36, 49, 64]
    assert built == [3, 4, 5, 6, 7, 8]
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_leaving_early_ends_the_prefetching_thread():
    before = threading.active_count()
    with prefetched(lambda step: step, 0, 1000) as items:
        next(items)
    assert threading.active_count() == before
