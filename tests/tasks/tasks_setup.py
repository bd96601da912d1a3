"""xp as a user runs it: a process with a working folder; and a model so small that it compiles in seconds."""

import os
import subprocess
import sys
from pathlib import Path

SMALL = [
    "model.cameras.primary.size=[32,32]",
    "model.cameras.wrist.size=[32,32]",
    "model.embed_dim=16",
    "model.num_heads=2",
    "model.mlp_dim=32",
    "model.layers=1",
    "trainer.batch_size=4",
    "trainer.val_windows=8",
    "lr.warmup_steps=2",
]
"""A model that compiles in seconds: these tests are about xp, not about what it learns."""


class Xp:
    """Runs xp in a folder; compiled programs are shared by all tests of a session."""

    def __init__(self, cwd: Path, cache: Path):
        self.cwd, self.cache = cwd, cache

    def environment(self) -> dict[str, str]:
        """The environment of its commands."""
        return environment()

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        unasked = ["trainer.figures=false"] if "task=train" in arguments else []
        return [sys.executable, "-m", "xp", f"paths.cache={self.cache}", *unasked, *arguments]

    def __call__(self, *arguments: str, code: int = 0, timeout: float = 900) -> subprocess.CompletedProcess:
        """Run to the end and assert the exit code."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(),
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=self.environment(),
        )


def environment() -> dict[str, str]:
    """The environment of a user without settings of their own."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


class Online(Xp):
    """xp with the hub of a test."""

    def environment(self) -> dict[str, str]:
        return {**environment(), "HF_HUB_OFFLINE": "0"}


EVERY = ["trainer.val_every=4", "trainer.checkpoint_every=4", "trainer.log_every=2"]


def weights_of(run: Path) -> bytes:
    """The bytes of a run's final weights."""
    (file,) = (run / "final").glob("*/default/checkpoint")
    return file.read_bytes()
