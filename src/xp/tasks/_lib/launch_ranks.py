"""Training on several devices: one process for each, and the first is the run's own.

`launch_ranks` starts the others, tells them what to do over their standard input, and ends them with the run; each
calls `run_rank`, which does that. They have a temporary folder in place of the run's, so that nothing they do can be
seen there, and they end when that input ends: also when the run's process is killed.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from omegaconf import OmegaConf

from xp.errors import UserError
from xp.runs import Record, Run, RunInterrupted
from xp.runs.execution.ranks import Ranks
from xp.runs.execution.signals import ASKED_BY
from xp.runs.execution.worker import task_named
from xp.runs.records.folder import as_config

FAREWELL_S = 60.0
"""How long the others may take to leave after the run's own process is done."""


class RankLost(UserError):  # noqa: N818 - a run's ending, named as its users say it
    """A process that trained with the run's own is gone."""

    exit_code = 1


@dataclasses.dataclass(frozen=True)
class RankProcess:
    """A process that was started, and the file that its output goes to."""

    rank: int
    process: subprocess.Popen
    output: IO[bytes]

    def check(self) -> None:
        """Raise RankLost if the process ended with an error."""
        code = self.process.poll()
        if code:
            raise RankLost(f"{self._ending(code)} Its last output:\n{self._last_output()}")

    def _ending(self, code: int) -> str:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = " (SIGKILL is often for lack of memory: try a smaller trainer.batch_size)" if code == -9 else ""
        return (
            f"The process of device {self.rank} {how}{memory}, so the training stopped. Run the same command again to "
            "continue from the last checkpoint."
        )

    def _last_output(self) -> str:
        self.output.seek(0)
        return self.output.read()[-2000:].decode(errors="replace").strip() or "(none)"


@contextmanager
def launch_ranks(run: Run, task: str) -> Iterator[Run]:
    """The run as the first of as many processes as `trainer.devices` asks for; the others work while the block runs.

    Args:
        run: the run.
        task: `MODULE:FUNCTION` that each of the others calls with its own `Run`.

    Raises:
        UserError: fewer devices than asked for, or one of the processes ended before its time.
    """
    size = count_processes(run)
    if size == 1:
        yield run
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        processes = [_start(run, task, rank, size, listener.getsockname()[1]) for rank in range(1, size)]

        def check_all() -> None:
            for each in processes:
                each.check()

        ranks = Ranks(size=size, port=listener.getsockname()[1], listener=os.dup(listener.fileno()), look=check_all)
        try:
            yield dataclasses.replace(run, ranks=ranks)
            for each in processes:
                with suppress(subprocess.TimeoutExpired):
                    each.process.wait(FAREWELL_S)
        except Exception as error:
            _raise_first_failure(processes, error)
            raise
        finally:
            for each in processes:
                each.process.kill()
                each.process.wait()
                each.output.close()


def count_processes(run: Run) -> int:
    """How many processes train: one for each device of a torch model, else one."""
    config = run.config
    if config.trainer.devices == 1:
        return 1
    from xp.models.families import family_named
    from xp.training.frameworks import IN_PROCESSES

    if family_named(config.model.family).framework not in IN_PROCESSES:  # its loop says that it takes no such option
        return 1
    from xp.tasks._lib.data_source import plain
    from xp.training.options import TrainerOptions
    from xp.training.torch.distributed import count_devices

    return count_devices(TrainerOptions.read(plain(config.trainer)))


def _start(run: Run, task: str, rank: int, size: int, port: int) -> RankProcess:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "xp.tasks._lib.launch_ranks"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the same code, a snapshot's too
        start_new_session=True,
    )
    config = OmegaConf.to_container(run.config, resolve=True)
    assert process.stdin is not None
    request = {"task": task, "config": config, "rank": rank, "size": size, "port": port}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    return RankProcess(rank, process, output)


def _raise_first_failure(processes: list[RankProcess], error: Exception) -> None:
    """Where a connection broke because a process is gone, say that in place of the broken connection."""
    if isinstance(error, UserError | RunInterrupted):
        return
    for each in processes:
        with suppress(subprocess.TimeoutExpired):
            each.process.wait(2.0)
    for each in processes:
        try:
            each.check()
        except RankLost as lost:
            raise lost from error


def run_rank() -> None:
    """What a process does that `launch_ranks` started."""
    for number in ASKED_BY:  # rank 0 decides when to stop
        signal.signal(number, signal.SIG_IGN)
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_first, name="end-with-the-first", daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="xp-rank-") as scratch:
        folder = Path(scratch)
        ranks = Ranks(rank=request["rank"], size=request["size"], port=request["port"])
        record = Record(folder / "record.json", {})
        with suppress(RunInterrupted):
            task_named(request["task"])(Run(folder, as_config(request["config"]), record, echo=False, ranks=ranks))


def _end_with_the_first() -> None:
    """Its end of our standard input closes when the run's own process ends, however it does."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    run_rank()
