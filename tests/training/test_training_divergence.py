"""When the loss stops being a number."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from training_fakes import LR, TinyBatches, mlp_loss, run_in, tiny_trainable, trainer

from xp.training.divergence import TrainingDiverged
from xp.training.jax.loop import train


@pytest.mark.parametrize("log_every", [1, 50])
def test_training_stops_at_the_very_step_with_its_episodes_and_keeps_the_last_checkpoint(tmp_path, log_every):
    options, batches = trainer(log_every=log_every), TinyBatches(batch_size=4, poison=6)
    with pytest.raises(TrainingDiverged) as caught:
        train(run_in(tmp_path), tiny_trainable(), batches, validate=None, trainer=options, lr=LR, seed=0)
    assert caught.value.step == 7
    assert caught.value.episodes == (600, 601, 602, 603)
    assert caught.value.exit_code == 1
    message = str(caught.value)
    assert "stopped at step 7: the loss is inf" in message and "episodes 600, 601, 602, 603" in message
    assert "checkpoints/checkpoint-5" in message and "lr.peak (the rate was 0.01)" in message
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-5"]
    assert not (tmp_path / "final").exists()


def test_a_checkpoint_due_at_the_bad_step_is_not_written(tmp_path):
    with pytest.raises(TrainingDiverged):
        train(
            run_in(tmp_path), tiny_trainable(), TinyBatches(poison=4), validate=None,
            trainer=trainer(checkpoint_every=1, keep_checkpoints=9), lr=LR, seed=0,
        )  # fmt: skip
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    for name in kept:
        weights = load_file(tmp_path / "checkpoints" / name / "policy.safetensors")
        assert all(np.isfinite(array).all() for array in weights.values())


def test_an_infinite_gradient_under_a_finite_loss_is_noticed(tmp_path):
    def loss(weights, inputs, key, train):
        value, parts = mlp_loss(weights, inputs, key, train)
        return value + jnp.sqrt(jnp.sum(weights["head"]["bias"] * 0.0)), parts

    with pytest.raises(TrainingDiverged, match="step 1: the gradient's norm is nan"):
        train(run_in(tmp_path), tiny_trainable(loss), TinyBatches(), validate=None, trainer=trainer(), lr=LR, seed=0)


def test_weights_that_overflow_in_the_last_update_are_never_checkpointed(tmp_path):
    # Rate times decay overflows float32: loss and gradient of the only step are finite, its weights are not.
    options = trainer(steps=1, weight_decay=1e38, clip_norm=None)
    with pytest.raises(TrainingDiverged, match="update made the weight .* infinite or NaN"):
        train(
            run_in(tmp_path), tiny_trainable(), TinyBatches(), validate=None, trainer=options,
            lr={**LR, "peak": 1e3}, seed=0,
        )  # fmt: skip
    assert not (tmp_path / "checkpoints").exists()


def test_an_error_while_building_a_batch_comes_out_and_leaves_no_thread(tmp_path):
    import threading

    class Broken(TinyBatches):
        def at(self, step):
            if step == 3:
                raise ValueError("frame 12 is missing")
            return super().at(step)

    before = threading.active_count()
    with pytest.raises(ValueError, match="frame 12 is missing"):
        train(run_in(tmp_path), tiny_trainable(), Broken(), validate=None, trainer=trainer(), lr=LR, seed=0)
    assert threading.active_count() == before
