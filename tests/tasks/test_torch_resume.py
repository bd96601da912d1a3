"""Runs in torch that are killed with SIGKILL at random steps end in the bytes of a run that nobody disturbed."""

import random
import signal
import time

import pytest

SMALL = {
    "act": ["model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32"],
    "augmented": ["model=act_tiny", "model.dim_model=32", "model.dim_feedforward=32", "augment=lerobot"],
    "act_smooth": ["model=act_smooth", "model.dim_model=32", "model.n_heads=4", "model.dim_feedforward=32",
                   "model.n_encoder_layers=1"],
    "diffusion": ["model=diffusion", "model.down_dims=[16,32]", "model.n_groups=4", "model.num_inference_steps=2"],
}  # fmt: skip
RUN = [
    "task=train", "model.image_size=[32,32]", "trainer.steps=24", "trainer.batch_size=4", "trainer.val_windows=8",
    "trainer.val_every=6", "trainer.checkpoint_every=3", "trainer.log_every=2", "lr.warmup_steps=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL)
def test_a_killed_run_ends_in_the_same_bytes(xp, arm, model):
    command = [*RUN, *SMALL[model], f"data.root={arm}"]
    xp(*command, "hydra.run.dir=whole", timeout=900)
    kills = random.Random(model)
    for _ in range(2):
        process = xp.start(*command, "hydra.run.dir=killed")
        log, before = xp.cwd / "killed" / "training_log.csv", rows(xp.cwd / "killed" / "training_log.csv")
        wanted, deadline = before + kills.randint(2, 4), time.monotonic() + 600
        while rows(log) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, "the run ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    xp(*command, "hydra.run.dir=killed", timeout=900)
    files = [xp.cwd / name / "final" / "model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def rows(path):
    return len(path.read_text().splitlines()) if path.is_file() else 0
