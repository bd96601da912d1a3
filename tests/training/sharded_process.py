"""Trains the small model with every sharding on two virtual devices; a process of its own, for they are counted once.

python sharded_process.py FOLDER      # leaves FOLDER/{none,data,fsdp,stopped}; prints what lay where
"""

import contextlib
import json
import os
import sys
from pathlib import Path

os.environ.update(XLA_FLAGS="--xla_force_host_platform_device_count=2", JAX_PLATFORMS="cpu")

import jax
from training_fakes import LR, TinyBatches, plain_loss, run_in, tiny_trainable, trainer

from xp.runs import RunInterrupted
from xp.training.jax.loop import JaxSession, train


def trained(folder: Path, sharding: str, stop_after: int | None = None) -> dict[str, list]:
    """Train; the shape of every weight and of one device's part of it, at the end."""
    layouts: dict[str, list] = {}
    finish = JaxSession.finish

    def noted(session):
        for path, array in session.state.weights.items():
            layouts[path] = [list(array.shape), list(array.sharding.shard_shape(array.shape))]
        return finish(session)

    options = trainer(sharding=sharding, ema_decay=0.9, accumulate=2, checkpoint_every=4)
    run = run_in(folder, stop_after=stop_after)
    JaxSession.finish = noted  # type: ignore[method-assign]
    try:
        train(run, tiny_trainable(plain_loss), TinyBatches(), validate=None, trainer=options, lr=LR, seed=0)
    finally:
        JaxSession.finish = finish  # type: ignore[method-assign]
    return layouts


def main(folder: Path) -> None:
    layouts = {kind: trained(folder / kind, kind) for kind in ("none", "data", "fsdp")}
    with contextlib.suppress(RunInterrupted):
        trained(folder / "stopped", "fsdp", stop_after=5)
    stopped = not (folder / "stopped/final").exists()
    trained(folder / "stopped", "fsdp")
    print(json.dumps({"devices": len(jax.devices()), "layouts": layouts, "stopped": stopped}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
