"""Runs: folder, record, identity, resume, frozen jobs, executors. Imports nothing heavy."""

from xp.runs.execution.execute import execute, exit_code
from xp.runs.execution.progress import Progress
from xp.runs.execution.run import Run
from xp.runs.execution.run_once import run_once, start_run
from xp.runs.execution.signals import RunInterrupted
from xp.runs.jobs.hub_inputs import pin_folder
from xp.runs.records.csvlog import CsvLog, read_csv
from xp.runs.records.folder import RunFolder, find_runs, load_run
from xp.runs.records.record import Record, State

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
    "pin_folder",
    "read_csv",
    "run_once",
    "start_run",
]
