"""The process that makes updates at the batch sizes it is asked about: what it allocates is gone with it.

`Prober` starts it and asks; the process reads one batch size a line from its standard input and answers a line of JSON
for each. It ends when that input closes: also when the run's process is killed. The system ends it before others when
memory is short, which is an answer too.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf

from xp.errors import UserError
from xp.runs import Record, Run
from xp.runs.execution.memory import forget_peak_memory, peak_memory
from xp.runs.execution.signals import ASKED_BY
from xp.runs.execution.worker import task_named
from xp.runs.records.folder import as_config
from xp.training.probe import DeviceMemory

if TYPE_CHECKING:
    from xp.data import Batches
    from xp.training.probe import Probe

ANSWERS = "XP_PROBE_ANSWERS"
"""Environment variable with the descriptor that answers go to."""
PAUSE_S = 0.5
"""How often somebody's wish to stop is looked for."""
_SIGNS = ("resource_exhausted", "out of memory", "outofmemory", "can't allocate memory", "bad_alloc", "memoryerror")
"""What errors for want of memory say, in JAX and in torch."""


class Measured(NamedTuple):
    """What updates at one batch size took."""

    host: int
    """The most bytes of the process on the host."""
    devices: tuple[DeviceMemory, ...]
    """Each accelerator, if any."""
    weights: int
    """Bytes of the trained weights: as much as their gradients take."""


class Prober:
    """A process that measures; see above. Used as a context manager."""

    def __init__(self, run: Run, task: str, *, batch_size: int, environment: Mapping[str, str]):
        """Start it.

        Args:
            run: the run that asks.
            task: `MODULE:FUNCTION`, which calls `answer`.
            batch_size: the smallest size.
            environment: what differs from that of this process.
        """
        self._run, self._output = run, tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        reader, writer = os.pipe()
        self._answers = os.fdopen(reader, "rb", buffering=0)
        path = os.pathsep.join(filter(None, sys.path))  # the same code, a snapshot's too
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xp.tasks._lib.batch_probe"],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            env={**os.environ, "PYTHONPATH": path, ANSWERS: str(writer), **environment},
            start_new_session=True,
        )
        os.close(writer)
        config: Any = OmegaConf.to_container(run.config, resolve=True)
        config["trainer"] |= {"batch_size": batch_size, "devices": 1, "strategy": "auto", "overfit_batches": None}
        self._scratch = tempfile.TemporaryDirectory(prefix="xp-probe-")
        self._say({"task": task, "config": config, "folder": self._scratch.name})

    def __enter__(self) -> "Prober":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        for each in (self._process.stdin, self._answers, self._output):
            with suppress(BrokenPipeError):
                each.close()
        self._scratch.cleanup()

    def ready(self) -> tuple[int, int]:
        """(what every batch size must be a multiple of, how many training windows there are).

        Raises:
            UserError: the process could not make the model.
        """
        found = self._heard()
        if found is None:
            raise UserError(f"trainer.batch_size=auto: the process that tries batch sizes {self._ending()}")
        return found["unit"], found["windows"]

    def measure(self, batch_size: int) -> Measured | None:
        """What updates at a batch size take, or None where memory did not suffice; then the process is of no more use.

        Raises:
            UserError: the process ended for another reason.
            RunInterrupted: somebody asked the run to stop.
        """
        self._say(batch_size)
        found = self._heard()
        if found is None and self._process.wait() == -signal.SIGKILL:
            return None
        if found is None:
            raise UserError(f"trainer.batch_size=auto: the process that tried {batch_size} windows {self._ending()}")
        if not found["enough"]:
            return None
        devices = tuple(DeviceMemory(*device) for device in found["devices"])
        return Measured(found["host"], devices, found["weights"])

    def _say(self, content: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: that is noticed where its answer is awaited
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()

    def _heard(self) -> Any:
        """The next answer; None where the process ended without one."""
        text = b""
        while not text.endswith(b"\n"):
            if self._run.should_stop():
                raise self._run.interrupted("asked to stop while batch sizes were tried")
            if select.select([self._answers], [], [], PAUSE_S)[0]:
                piece = self._answers.read(1 << 16)
                if not piece:
                    return None
                text += piece
        return json.loads(text)

    def _ending(self) -> str:
        code = self._process.wait()
        self._output.seek(0)
        said = self._output.read()[-2000:].decode(errors="replace").strip() or "(none)"
        return f"ended with exit code {code}. Its last output:\n{said}"


def answer(session: "Probe", batches: "Callable[[int], Batches]", *, windows: int) -> None:
    """In the process: measure what is asked for, until nothing more is, or memory does not suffice.

    Args:
        session: makes the updates.
        batches: the training data, by batch size.
        windows: how many training windows there are.
    """
    with os.fdopen(int(os.environ[ANSWERS]), "w") as answers:
        print(json.dumps({"unit": session.unit, "windows": windows}), file=answers, flush=True)
        for line in sys.stdin:
            forget_peak_memory()
            try:
                devices = session.measure(batches(int(line)))
            except Exception as error:
                if not _is_shortage(error):
                    raise
                print(json.dumps({"enough": False}), file=answers, flush=True)
                return
            found = {"enough": True, "host": peak_memory(), "devices": devices, "weights": session.policy_bytes}
            print(json.dumps(found), file=answers, flush=True)


def _is_shortage(error: BaseException) -> bool:
    said = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(sign in said for sign in _SIGNS)


def main() -> None:
    """What the process does."""
    for number in ASKED_BY:  # the run's own process decides when to stop
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    request = json.loads(sys.stdin.readline())
    folder = Path(request["folder"])
    record = Record(folder / "record.json", {})
    try:
        task_named(request["task"])(Run(folder, as_config(request["config"]), record, echo=False))
    except UserError as error:
        sys.exit(f"xp: {error}")


if __name__ == "__main__":
    main()
