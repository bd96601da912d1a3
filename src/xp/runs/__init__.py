"""Runs: folder, record, identity, resume, frozen jobs, the executor protocol. Imports nothing heavy."""

from xp.runs.csvlog import CsvLog, read_csv
from xp.runs.execute import execute, exit_code
from xp.runs.folder import RunFolder, find_runs, load_run
from xp.runs.progress import Progress
from xp.runs.record import Record, State
from xp.runs.run import Run
from xp.runs.signals import RunInterrupted
from xp.runs.single import run_once, start_run

__all__ = [
    "CsvLog",
    "Progress",
    "Record",
    "Run",
    "RunFolder",
    "RunInterrupted",
    "State",
    "execute",
    "exit_code",
    "find_runs",
    "load_run",
    "read_csv",
    "run_once",
    "start_run",
]
