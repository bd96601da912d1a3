"""What a process that SLURM has started knows of itself."""

import os

from hydra_plugins.xp_slurm_launcher._protocol import Attempt

LEFT = 76
"""Exit code of a step whose job another submission or a later attempt has."""


def handle() -> str:
    """The handle of the job that this process belongs to."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def index() -> int:
    """The place of this process's job in its job spec."""
    return int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)


def attempt_of(token: str) -> Attempt:
    """The attempt that this process belongs to."""
    return Attempt(token, os.environ.get("SLURM_JOB_ID", ""), int(os.environ.get("SLURM_RESTART_COUNT") or 0))
