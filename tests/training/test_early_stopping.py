"""A training that ends when its validations stop improving: the rule, both loops, resuming, what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch_fakes import torch_trainable
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
from xp.training import train_any
from xp.training.early_stopping import validations_without_improvement

LOSSES = {1: 5.0, 2: 4.0, 3: 4.5, 4: 3.0, 5: 3.0, 6: 3.5, 7: 2.9, 8: 1.0, 9: 0.9, 10: 0.8, 11: 0.7, 12: 0.6}
"""By step: the first two validations in a row without improvement are those of 5 and 6."""
values = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=12)


@pytest.mark.parametrize(
    ("given_values", "threshold", "higher", "waited"),
    [
        ([], 0.0, False, 0),
        ([3.0], 0.0, False, 0),
        ([3.0, 3.0], 0.0, False, 1),
        ([3.0, 2.0, 2.5, 2.1], 0.0, False, 2),
        ([3.0, 2.5, 2.1, 1.9], 1.0, False, 0),  # small steps forward: their sum passes the threshold
        ([3.0, 2.5, 2.1], 1.0, False, 2),
        ([0.5, 0.6, 0.6], 0.0, True, 1),
        ([math.nan, math.nan], 0.0, False, 2),
        ([math.nan, 2.0, math.inf, math.nan], 0.0, False, 2),
        ([-math.inf, 2.0], 0.0, False, 0),
    ],
)
def test_the_rule(given_values, threshold, higher, waited):
    assert validations_without_improvement(given_values, threshold=threshold, higher=higher) == waited


@given(values, st.floats(0, 10))
def test_a_higher_better_metric_is_a_lower_better_one_turned(seen, threshold):
    lower = validations_without_improvement(seen, threshold=threshold, higher=False)
    assert lower == validations_without_improvement([-v for v in seen], threshold=threshold, higher=True)


@given(values, st.floats(0, 10))
def test_one_more_validation_begins_anew_or_counts_one_more(seen, threshold):
    counts = [
        validations_without_improvement(seen[:end], threshold=threshold, higher=False) for end in range(len(seen) + 1)
    ]
    assert all(after in (0, before + 1) for before, after in zip(counts, counts[1:], strict=False))
    finite = [value for value in seen if math.isfinite(value)]
    if finite and counts[-1] == 0:
        assert seen[-1] == min(finite)


def go(folder, model, *, stop_after=None, losses=LOSSES, validated=True, **options):
    run = run_in(folder, stop_after=stop_after)
    chosen = trainer(**{"val_every": 1, "early_stopping_patience": 2, "checkpoint_every": 4, **options})
    validate = (lambda policy, step: {"val_loss": losses[step]}) if validated else None
    return run, train_any(run, model(), TinyBatches(), validate=validate, trainer=chosen, lr=LR, seed=0)


models = pytest.mark.parametrize("model", [tiny_trainable, torch_trainable], ids=["jax", "torch"])


@models
def test_a_training_ends_with_the_validation_that_is_one_too_many(tmp_path, model):
    run, _ = go(tmp_path / "early", model)
    assert [int(row["step"]) for row in run.validation_log.rows()] == [1, 2, 3, 4, 5, 6]
    steps = sorted(int(folder.name.split("-")[1]) for folder in (run.folder / "checkpoints").iterdir())
    assert 6 in steps and max(steps) == 6
    go(tmp_path / "six", model, steps=6, early_stopping_patience=None)
    assert same_bytes(final_weights(tmp_path / "early"), final_weights(tmp_path / "six"))
    best = load_file(tmp_path / "early" / "best" / "policy.safetensors")
    go(tmp_path / "four", model, steps=4, early_stopping_patience=None)
    assert same_bytes(best, final_weights(tmp_path / "four")), "best/ is of step 4"


@models
@pytest.mark.parametrize("stops", [(2,), (5,), (6,), (3, 1, 1)])
def test_an_interrupted_training_ends_early_at_the_same_step(tmp_path, model, stops):
    go(tmp_path / "straight", model)
    for stop in stops:
        with pytest.raises(RunInterrupted):
            go(tmp_path / "parts", model, stop_after=stop)
    go(tmp_path / "parts", model)
    assert same_bytes(final_weights(tmp_path / "straight"), final_weights(tmp_path / "parts"))
    assert len({str(rows_without_time(tmp_path / name / "validation_log.csv")) for name in ("straight", "parts")}) == 1


@models
def test_a_run_that_is_given_again_after_its_end_trains_no_more(tmp_path, model):
    go(tmp_path, model)
    before = final_weights(tmp_path)
    run, _ = go(tmp_path, model)
    assert same_bytes(before, final_weights(tmp_path))
    assert len(run.validation_log.rows()) == 6


@models
def test_patience_that_is_never_used_up_changes_nothing(tmp_path, model):
    falling = {step: 1.0 / step for step in range(1, 13)}
    go(tmp_path / "patient", model, losses=falling)
    go(tmp_path / "without", model, losses=falling, early_stopping_patience=None)
    assert same_bytes(final_weights(tmp_path / "patient"), final_weights(tmp_path / "without"))


@models
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val_every": None}, "trainer.val_every=null"),
        ({"validated": False}, "no held-out episodes"),
        ({"early_stopping_patience": 0}, "trainer.early_stopping_patience=0"),
        ({"early_stopping_threshold": -1.0}, "trainer.early_stopping_threshold=-1.0"),
        ({"early_stopping_threshold": math.nan}, "trainer.early_stopping_threshold=nan"),
    ],
)
def test_what_cannot_say_when_to_stop_is_refused(tmp_path, model, options, words):
    with pytest.raises(UserError, match=words):
        go(tmp_path, model, **options)
