"""Trains the small torch model alone and on two devices; the first process starts the second.

python devices_process.py FOLDER      # leaves FOLDER/CASE for each of CASES
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch_fakes import torch_trainable
from training_fakes import LR, TinyBatches, run_in, trainer

from xp.runs import RunInterrupted
from xp.runs.execution.ranks import Ranks
from xp.training.torch.loop import train

EVERY = {"ema_decay": 0.9, "val_every": 6, "log_every": 3}
CASES = {
    "alone": {},
    "alone in 2 parts": {"accumulate": 2},
    "alone in 4 parts": {"accumulate": 4},
    "ddp": {"devices": 2},
    "ddp in 2 parts": {"devices": 2, "accumulate": 2},
    "ddp stopped": {"devices": 2},
    "ddp no clip": {"devices": 2, "clip_norm": None, "ema_decay": None},
    "alone no clip": {"accumulate": 2, "clip_norm": None, "ema_decay": None},
    "fsdp": {"devices": 2, "strategy": "fsdp"},
    "fsdp in 2 parts": {"devices": 2, "strategy": "fsdp", "accumulate": 2},
    "fsdp stopped": {"devices": 2, "strategy": "fsdp"},
    "fsdp frozen": {"devices": 2, "strategy": "fsdp", "freeze": ["norm.*", "trunk.*"]},
    "alone frozen": {"accumulate": 2, "freeze": ["norm.*", "trunk.*"]},
    "fsdp of ddp": {"devices": 2, "strategy": "fsdp"},
    "plain alone": {},
    "plain ddp": {"devices": 2},
    "plain fsdp": {"devices": 2, "strategy": "fsdp"},
    "bfloat16 fsdp": {"devices": 2, "strategy": "fsdp", "precision": "bfloat16"},
}


def fit(folder: Path, case: str, ranks: Ranks, stop_after: int | None = None) -> None:
    """Train, or help to."""
    model = torch_trainable()
    if "frozen" not in case:  # before a batch normalisation the trunk's bias has no gradient but rounding
        model.module.norm = torch.nn.Identity()
    if case.startswith("plain"):  # draws are each part's own; without them parts do not matter
        model.module.dropout.p = 0.0
    run = replace(run_in(folder, stop_after=stop_after), ranks=ranks)
    options = trainer(**EVERY | CASES[case], checkpoint_every=4)
    score = {"val_loss": lambda policy: float(sum(abs(array).sum() for array in policy.weights().values()))}
    train(
        run, model, TinyBatches(), validate=lambda policy, step: {name: f(policy) for name, f in score.items()},
        trainer=options, lr=LR, seed=0,
    )  # fmt: skip


def first(folder: Path) -> None:
    """Rank 0: goes through the cases, telling the second process where to meet."""
    other = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, text=True)

    def together(name: str, case: str, stop_after: int | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            print(case, port, sep="|", file=other.stdin, flush=True)
            ranks = Ranks(size=2, port=port, listener=os.dup(listener.fileno()))
            fit(folder / name, case, ranks, stop_after)

    for case, options in CASES.items():
        print(case, flush=True)
        if "devices" not in options:
            fit(folder / case, case, Ranks())
            continue
        if case.endswith("stopped"):
            with contextlib.suppress(RunInterrupted):
                together(case, case, stop_after=6)
            assert not (folder / case / "final").exists()
        if case == "fsdp of ddp":
            with contextlib.suppress(RunInterrupted):
                together(case, "ddp", stop_after=6)
        together(case, case)
    other.stdin.close()
    assert other.wait(60) == 0


def second() -> None:
    """Rank 1."""
    for line in sys.stdin:
        case, port = line.strip().split("|")
        with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(RunInterrupted):
            fit(Path(scratch), case, Ranks(rank=1, size=2, port=int(port)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    first(Path(sys.argv[1])) if sys.argv[1:] else second()
