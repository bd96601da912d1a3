"""What a task receives: its folder, its configuration, and the ways to report on itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from xp.atomic import write_json
from xp.json_types import JSON
from xp.runs.execution.progress import Progress, own_terminal
from xp.runs.execution.ranks import Ranks
from xp.runs.execution.signals import RunInterrupted
from xp.runs.records.csvlog import CsvLog
from xp.runs.records.folder import CONFIG, PROGRESS, SUMMARY, TRAINING_LOG, VALIDATION_LOG
from xp.runs.records.json_io import read_json
from xp.runs.records.record import Record


@dataclass
class Run:
    """One run at work. `resuming` says that an earlier attempt left something behind to go on from."""

    folder: Path
    config: DictConfig
    record: Record
    resuming: bool = False
    should_stop: Callable[[], bool] = lambda: False
    """True once somebody asked (SIGTERM, SIGUSR2, Ctrl-C): write a checkpoint, then `raise run.interrupted`."""
    echo: bool = True
    """Whether a terminal may be drawn on; a worker's output goes to log.txt alone."""
    ranks: Ranks = Ranks()
    """Which of the processes at work on this run this is; the folder of all but rank 0 is a temporary one."""
    training_log: CsvLog = field(init=False)
    validation_log: CsvLog = field(init=False)
    interrupted = RunInterrupted

    def __post_init__(self):
        self.training_log = CsvLog(self.folder / TRAINING_LOG)
        self.validation_log = CsvLog(self.folder / VALIDATION_LOG)

    def log(self, message: str) -> None:
        """Say something: a line in log.txt and on the terminal (output is copied into the log while a task runs)."""
        print(message, flush=True)

    def written_config(self) -> JSON:
        """The configuration as config.json has it: resolved, without secrets; of a process of another rank None."""
        return read_json(self.folder / CONFIG, default=None)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write summary.json: the results of this run."""
        write_json(self.folder / SUMMARY, summary)

    def progress(self, total: int, description: str, unit: str = "step", start: int = 0) -> Progress:
        """A context manager that counts steps: see `xp.runs.execution.progress.Progress`."""
        terminal = own_terminal() if self.echo else None
        file = self.folder / PROGRESS
        return Progress(total, description, unit=unit, start=start, file=file, terminal=terminal, say=self.log)


def leave_if_asked(run: Run) -> None:
    """Raise `run.interrupted` where somebody asked a run to stop: for what has no more to write before it leaves."""
    if run.should_stop():
        raise run.interrupted
