"""What this machine has for workers: cores and GPUs, counted without importing a framework."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from xp.runs import threads as thread_rule


def gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """GPUs this process may use, as CUDA_VISIBLE_DEVICES names them: that variable if set, else nvidia-smi."""
    environment = os.environ if environment is None else environment
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    command = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if command is None:
        return []
    try:
        done = subprocess.run([command, "--list-gpus"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU ")]


def default_workers(devices: list[str]) -> int:
    """One worker per GPU; without GPUs two, or one on a single core."""
    return len(devices) or min(2, thread_rule.cores())


def worker_environment(number: int, workers: int, devices: list[str], threads: int | None) -> dict[str, str]:
    """Environment of worker `number`: its GPU and its CPU threads, by the rule of `xp.runs.threads`."""
    environment = {**os.environ, **thread_rule.environment(threads)}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
        if workers > len(devices):
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several workers on one GPU
    return environment
