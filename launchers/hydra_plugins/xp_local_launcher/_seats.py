"""Which worker gets which GPU: each is locked where all accounts see it, and taken only if nobody else uses it."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from hydra_plugins.xp_executor_base import _gpus
from xp.atomic import write_json
from xp.runs.records.json_io import read_json
from xp.runs.records.record import process_start

WAITS = ".waits.json"
"""In an experiment's folder: what its controller waits for."""
_LOOK_AGAIN_S = 2.0


class Seats:
    """The GPUs of this machine as far as this controller has them; without GPUs every worker may start."""

    def __init__(self, devices: list[_gpus.Device], workers: int, used_max: float):
        self.devices, self.used_max = devices, used_max
        self.each = -(-workers // max(1, len(devices)))
        """Workers on one GPU, at most."""
        self._held: dict[_gpus.Device, int] = {}
        self._at: dict[int, _gpus.Device] = {}
        self._look_at = 0.0
        self._told = ""

    @property
    def waiting(self) -> bool:
        """Whether a worker could not start because of others."""
        return bool(self._told)

    def take(self, number: int, experiments: Iterable[Path]) -> tuple[_gpus.Device, int] | None:
        """A GPU for worker `number` and the descriptor that locks it, for the worker to inherit; None if there is none.

        Why there is none is printed once, and written into the experiments' folders for `xp task=status`.
        """
        for device, descriptor in self._held.items():
            if sum(each == device for each in self._at.values()) < self.each:
                self._at[number] = device
                return device, descriptor
        if time.monotonic() < self._look_at:
            return None
        left = [device for device in self.devices if device not in self._held]
        found, lines = _gpus.take(left, 1, self.used_max)
        if not found:
            self._look_at = time.monotonic() + _LOOK_AGAIN_S
            if not self._held:
                self._say("; ".join(lines), experiments)
            return None
        self._held.update(found)
        self._say("", experiments)
        return self.take(number, experiments)

    def leave(self, number: int) -> None:
        """Worker `number` is gone; its GPU stays with this controller."""
        self._at.pop(number, None)

    def close(self, experiments: Iterable[Path]) -> None:
        """Give all GPUs back."""
        self._say("", experiments)
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held, self._at = {}, {}

    def _say(self, line: str, experiments: Iterable[Path]) -> None:
        if line == self._told:
            return
        self._told = line
        for experiment in experiments:
            path = experiment / WAITS
            if line:
                who = {"pid": os.getpid(), "process_start": process_start(os.getpid())}
                write_json(path, {"line": line, **who})
            else:
                path.unlink(missing_ok=True)
        if line:
            print(
                f"xp: waits: {line}. hydra.launcher.gpu_used_max=1 takes it nevertheless", file=sys.stderr, flush=True
            )


def waits(experiment: Path) -> list[str]:
    """What the controller of an experiment waits for, if it is there and does."""
    found = read_json(experiment / WAITS, default={})
    pid = found.get("pid") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(pid, int) or pid <= 0:
        return []
    there = process_start(pid) == found.get("process_start") is not None
    return [f"waits: {found.get('line')}"] if there else []
