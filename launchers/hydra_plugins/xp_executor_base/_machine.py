"""What this machine has for workers: cores and GPUs, counted without importing a framework."""

import os
from collections.abc import Mapping

from hydra_plugins.xp_executor_base import _gpus
from xp.runs.execution import threads as thread_rule


def gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """GPUs this process may use, as CUDA_VISIBLE_DEVICES names them: that variable if set, else nvidia-smi."""
    return [device.name for device in _gpus.devices(environment)]


def default_workers(devices: list[str]) -> int:
    """One worker per GPU; without GPUs two, or one on a single core."""
    return len(devices) or min(2, thread_rule.cores())


def worker_environment(number: int, workers: int, devices: list[str], threads: int | None) -> dict[str, str]:
    """Environment of worker `number`: its GPU and its CPU threads, by the rule of `xp.runs.execution.threads`."""
    environment = {**os.environ, **thread_rule.environment(threads)}
    if devices:
        environment |= _gpus.settings_for([_gpus.Device(devices[number % len(devices)], "")])
        if workers > len(devices):
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several workers on one GPU
    return environment
