"""Training in JAX and in torch is one training: the loops of both, from the same weights, windows, noise and times."""

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf
from pi0_made_up import batch, trainable

from xp.runs import Record, Run
from xp.training import train_any

STEPS, ROWS, HORIZON = 20, 2, 4
TRAINER = {
    "steps": STEPS, "log_every": 1, "checkpoint_every": None, "clip_norm": 1.0, "weight_decay": 1.0, "ema_decay": 0.9,
}  # fmt: skip
"""A decay so large that other weights that decay would show in the losses."""
LR = {"schedule": "linear_warmup", "peak": 1e-3, "warmup_steps": 4, "end_factor": 1.0}
UPDATES = {"language": "dummy_lora", "action": "dummy_lora"}


class Windows:
    """Batches with the noise and the times of their losses, a function of the step."""

    def at(self, step):
        rng = np.random.default_rng(step)
        noise = rng.standard_normal((ROWS, HORIZON, 32)).astype(np.float32)
        time = rng.uniform(0.01, 1, ROWS).astype(np.float32)
        return {**batch(ROWS, HORIZON, seed=step), "noise": noise, "time": time}

    def epoch(self, step):
        return step / STEPS


def trained(folder, name, **changed):
    """(the loss of every update, the policy: a moving average) of a run of the loop of the model's framework."""
    folder.mkdir()
    made = trainable(name, horizon=HORIZON, seed=1, **changed)
    made = replace(made, prepare=with_draws(made.prepare))
    run = Run(folder, OmegaConf.create({}), Record(folder / "record.json", {}), should_stop=lambda: False, echo=False)
    policy = train_any(run, made, Windows(), validate=None, trainer=TRAINER, lr=LR, seed=0)
    return [row["loss"] for row in run.training_log.rows()], policy


def with_draws(prepare):
    """`prepare`, and a look at what it leaves of a batch: losses are equal for these draws, not by chance."""

    def prepared(given):
        inputs = prepare(given)
        np.testing.assert_array_equal(np.asarray(inputs["noise"]), given["noise"])
        return inputs

    return prepared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changed"), [("pi05", UPDATES), ("pi0", {}), ("pi05", {})], ids=["pi05_lora", "pi0", "pi05"]
)
def test_the_first_twenty_losses_are_the_same_in_both_frameworks(tmp_path, kind, changed):
    one, first = trained(tmp_path / "jax", f"{kind}_tiny", **changed)
    other, second = trained(tmp_path / "torch", f"{kind}_torch_tiny", **changed)
    assert len(one) == STEPS and min(one) < 0.9 * one[0]
    np.testing.assert_allclose(other, one, rtol=1e-4)
    given = Windows().at(STEPS)
    assert second.loss(given)["loss"] == pytest.approx(first.loss(given)["loss"], rel=1e-4)
