"""The torch loop does what the JAX loop does: the same folder, the same order, resumption bit for bit."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch_fakes import torch_trainable
from training_fakes import LR, TinyBatches, final_weights, rows_without_time, run_in, same_bytes, trainer

from xp.errors import UserError
from xp.runs import RunInterrupted
from xp.training import train_any
from xp.training.divergence import TrainingDiverged
from xp.training.torch.step import mixed_seed


def go(folder, *, validate=None, model=None, batches=None, lr=LR, stop_after=None, seed=0, **options):
    run = run_in(folder, stop_after=stop_after)
    model, batches = model or torch_trainable(), batches or TinyBatches()
    policy = train_any(run, model, batches, validate=validate, trainer=trainer(**options), lr=lr, seed=seed)
    return run, policy


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "accumulate": 2, "log_every": 5}], ids=["plain", "average"])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, options):
    go(tmp_path / "whole", **options)
    for stop in (3, 1, 5):
        with pytest.raises(RunInterrupted):
            go(tmp_path / "parts", stop_after=stop, model=torch_trainable(seed=99 if stop == 1 else 0), **options)
    go(tmp_path / "parts", **options)
    assert same_bytes(final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts"))
    state = [tmp_path / name / "checkpoints" / "checkpoint-12" / "training_state" for name in ("whole", "parts")]
    assert same_bytes(*(load_file(folder / "state.safetensors") for folder in state))
    logs = [rows_without_time(tmp_path / name / "training_log.csv") for name in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_looking_does_not_change_what_is_learned(tmp_path):
    def validate(policy, step):
        torch.manual_seed(step)
        torch.rand(100)
        return {"val_loss": 1.0 / step}

    go(tmp_path / "blind", checkpoint_every=None, log_every=12)
    go(tmp_path / "watched", validate=validate, val_every=1, checkpoint_every=1, log_every=1)
    assert same_bytes(final_weights(tmp_path / "blind"), final_weights(tmp_path / "watched"))
    assert len(rows_without_time(tmp_path / "watched" / "validation_log.csv")) == 13


def test_the_logs_and_the_order_are_those_of_the_jax_loop(tmp_path):
    seen = []

    def validate(policy, step):
        logged = (tmp_path / "training_log.csv").read_text().count("\n") - 1
        seen.append((step, logged, (tmp_path / "checkpoints" / f"checkpoint-{step}").exists()))
        return {"val_loss": float(step)}

    lr = {"schedule": "linear_warmup", "peak": 0.01, "warmup_steps": 8, "end_factor": 1.0}
    run, _ = go(tmp_path, validate=validate, steps=4, log_every=2, val_every=2, checkpoint_every=2, lr=lr)
    assert seen == [(2, 1, True), (4, 2, True)]
    rows = run.training_log.rows()
    assert [row["step"] for row in rows] == [2, 4] and [row["epoch"] for row in rows] == [0.2, 0.4]
    assert [row["lr"] for row in rows] == pytest.approx([0.01 / 8, 0.03 / 8])
    assert (tmp_path / "best" / "policy.safetensors").exists()


def test_the_update_is_adamw_with_clipping_and_the_scheduled_rate(tmp_path):
    options = {"steps": 3, "weight_decay": 0.1, "clip_norm": 0.5, "checkpoint_every": None}
    lr = {"schedule": "linear_warmup", "peak": 0.1, "warmup_steps": 2, "end_factor": 1.0}
    ours, model = torch_trainable(lr_multipliers={"head.weight": 0.5}), torch_trainable()
    for one in (ours, model):
        one.module.norm = torch.nn.Identity()  # behind it the trunk's bias has no gradient but rounding
    go(tmp_path, model=ours, lr=lr, **options)
    head, rest = [model.module.head.weight], [w for n, w in model.module.named_parameters() if n != "head.weight"]
    optimiser = torch.optim.AdamW([{"params": rest}, {"params": head}], weight_decay=0.1)
    model.module.train()
    for step, rate in enumerate((0.0, 0.05, 0.1)):
        torch.manual_seed(mixed_seed(0, step, 0))
        loss, _ = model.loss(model.prepare(TinyBatches().at(step)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.module.parameters(), 0.5)
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = rate, rate / 2
        optimiser.step()
        optimiser.zero_grad()
    found = final_weights(tmp_path)
    for name, tensor in model.module.state_dict().items():
        if not name.startswith("unused"):
            assert np.allclose(found[name], tensor.numpy(), rtol=1e-5, atol=1e-6), name


def test_accumulated_parts_make_the_update_of_the_whole_batch(tmp_path):
    def plain():
        model = torch_trainable()
        model.module.dropout.p = 0.0
        model.module.norm = torch.nn.Identity()
        return model

    go(tmp_path / "whole", model=plain(), steps=4)
    go(tmp_path / "parts", model=plain(), steps=4, accumulate=4)
    whole, parts = (final_weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(np.allclose(whole[name], parts[name], rtol=1e-4, atol=1e-6) for name in whole)


def test_frozen_weights_and_their_batch_statistics_stand_still(tmp_path):
    before = {name: tensor.clone() for name, tensor in torch_trainable().module.state_dict().items()}
    run, _ = go(tmp_path, freeze=["norm.*", "trunk.*"], validate=lambda policy, step: {"val_loss": 1.0}, val_every=2)
    after = final_weights(tmp_path)
    same = {name for name, tensor in before.items() if np.array_equal(after[name], tensor.numpy())}
    assert {"norm.weight", "norm.running_mean", "trunk.weight", "trunk.bias"} <= same and "head.weight" not in same
    with pytest.raises(UserError, match=r"'\*hed\*' of trainer.freeze matches none.*'\*head\*'"):
        go(tmp_path / "wrong", freeze=["*hed*"])


def test_the_moving_average_is_deployed_and_the_raw_weights_go_on(tmp_path):
    seen = {}

    def validate(policy, step):
        seen[step] = policy.weights()
        return {"val_loss": 1.0}

    go(tmp_path, validate=validate, val_every=6, ema_decay=0.5)
    assert same_bytes(seen[12], final_weights(tmp_path))
    state = load_file(tmp_path / "checkpoints" / "checkpoint-12" / "training_state" / "state.safetensors")
    assert not np.array_equal(state["weights/head.weight"], state["ema/head.weight"])
    assert np.array_equal(state["ema/head.weight"], final_weights(tmp_path)["head.weight"])


def test_training_stops_at_the_first_number_that_is_none(tmp_path):
    with pytest.raises(TrainingDiverged) as caught:
        go(tmp_path, batches=TinyBatches(batch_size=4, poison=6))
    assert caught.value.step == 7 and caught.value.episodes == (600, 601, 602, 603)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-5"]


def test_a_trace_is_written_and_changes_nothing(tmp_path):
    go(tmp_path / "plain")
    go(tmp_path / "traced", profile_steps=2)
    assert same_bytes(final_weights(tmp_path / "plain"), final_weights(tmp_path / "traced"))
    assert json.loads((tmp_path / "traced" / "profile" / "trace.json").read_text())["traceEvents"]


def test_bfloat16_keeps_the_weights_in_float32(tmp_path):
    go(tmp_path, precision="bfloat16", steps=2)
    assert final_weights(tmp_path)["head.weight"].dtype == np.float32


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    go(tmp_path)
    with pytest.raises(UserError, match="holds a checkpoint of another training run: they differ in seed"):
        go(tmp_path, seed=1)
    with pytest.raises(UserError, match="they differ in .*head"):
        go(tmp_path, model=torch_trainable(width=16))


def test_a_gpu_that_is_not_there_is_not_quietly_replaced(tmp_path):
    if torch.cuda.is_available():
        return
    with pytest.raises(UserError, match="trainer.accelerator=gpu: torch sees no GPU here"):
        go(tmp_path, accelerator="gpu")
