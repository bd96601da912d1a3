"""Run one frozen job to its end: the only place where a run's record changes from pending to anything else."""

import os
import signal
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from xp.atomic import write_json
from xp.errors import UserError, disk_full
from xp.json_types import JSON
from xp.runs.execution import threads
from xp.runs.execution.progress import last_step
from xp.runs.execution.run import Run
from xp.runs.execution.signals import RunInterrupted, Stop, listening
from xp.runs.execution.streams import to_log
from xp.runs.jobs import stage_references
from xp.runs.jobs.frozen import Job, open_job, secrets_of
from xp.runs.jobs.inputs import record_inputs
from xp.runs.jobs.secrets import redacted_keys, restore, scrub
from xp.runs.records.folder import CONFIG, LOG, PROGRESS, RECORD, as_config
from xp.runs.records.heartbeat import beating
from xp.runs.records.lock import locked
from xp.runs.records.record import Record, State, now, whereabouts

DONE, FAILED = 0, 1


def execute(
    folder: str | Path,
    task: Callable[[Run], None],
    *,
    echo: bool = True,
    secrets: Mapping[str, str] | None = None,
    admit: Callable[[], None] = lambda: None,
) -> State:
    """Run the job frozen in `folder` by calling `task(run)`.

    What the task prints goes to log.txt (and to the terminal with `echo`). The record ends as `done`, as `failed` with
    the error (a traceback too, unless it is a `UserError`), or as `pending` with `interrupted: true` if the task was
    asked to leave. Its `exit` is what a process may hand to the shell: 0, 1, 2, or 128 + signal. A run that is done
    (another sweep was faster) is left as it is; `freeze` makes it pending again.

    Args:
        folder: the run's folder.
        task: what to do; it looks at `run.should_stop()` now and then and raises `run.interrupted`.
        echo: also show output on the terminal.
        secrets: {dotted key: value} that were left out of the files; default: what this process left out itself.
        admit: called with the folder held, before anything is written: raises if this process may not run the job.

    Raises:
        Busy: another process works in the folder.
        UserError: the folder holds no job.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - the task may change the working folder
    known = secrets_of(folder) if secrets is None else secrets
    with locked(folder):
        record = Record(folder / RECORD)
        if record.state is State.DONE:
            return record.state
        admit()
        attempts = record.attempts
        with to_log(folder / LOG, echo=echo), listening() as stop, beating(folder, lambda: last_step(folder)) as handle:
            warning = threads.resume(record.get("threads")) if attempts else None
            _begin(record, attempts, handle)
            try:
                print(*filter(None, (threads.line(), warning)), sep="\n", flush=True)
                job = open_job(folder)
                run = _prepare(job, record, known, stop, resuming=attempts > 0, echo=echo)
                task(run)
                end = _ended(State.DONE, DONE)
            except BaseException as error:  # noqa: BLE001 - whatever ends a run is written down
                end = _outcome(error, stop, known.values())
            record.update(**end)
    return record.state


def exit_code(folder: str | Path) -> int:
    """What a process that ran this folder should exit with."""
    code = Record(Path(folder) / RECORD).get("exit")
    return code if isinstance(code, int) else 0


def _begin(record: Record, attempts: int, handle: str | None) -> None:
    (record.path.parent / PROGRESS).unlink(missing_ok=True)
    record.update(
        state=State.RUNNING,
        interrupted=False,
        attempts=attempts + 1,
        started=now(),
        ended=None,
        exit=None,
        error=None,
        traceback=None,
        handle=handle,
        threads=asdict(threads.facts()),
        **whereabouts(),
    )


def _prepare(job: Job, record: Record, secrets: Mapping[str, str], stop: Stop, *, resuming: bool, echo: bool) -> Run:
    needed = defaultdict(list)
    for need in job.needs:
        needed[need.stage].append(need.folder)
    config, taken = stage_references.resolve(job.config, needed)
    if taken:
        record.update(late=taken)
        write_json(job.folder / CONFIG, config)
    config = restore(config, secrets)
    unknown = redacted_keys(config)
    if unknown:
        raise UserError(
            f"{unknown[0]} is a secret and was left out of the run's files, so this run cannot be started from them. "
            "Give it on the command line again, or better in the environment, where no configuration names it."
        )
    inputs = record_inputs(job.folder, config, begun=resuming)
    if inputs:
        record.update(inputs=inputs)
    return Run(job.folder, as_config(config), record, resuming=resuming, should_stop=lambda: bool(stop), echo=echo)


def _outcome(error: BaseException, stop: Stop, secrets: Iterable[str]) -> dict[str, JSON]:
    """Fields of the record for a run that ended by an exception; no message or traceback keeps a secret."""
    secrets = tuple(secrets)
    if isinstance(error, RunInterrupted | KeyboardInterrupt):
        asked = stop.asked or signal.SIGINT
        print(f"interrupted ({asked.name}); the same command resumes", flush=True)
        return _ended(State.PENDING, 128 + asked, interrupted=True)
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return _ended(State.DONE, DONE)
    if isinstance(error, MemoryError):
        error = UserError(
            f"This run ran out of memory ({error or 'an array could not be allocated'}). Give it less to hold at once: "
            "a smaller trainer.batch_size, predict.batch_size, horizon.train or model, or a machine with more memory."
        )
    error = disk_full(error) or error
    if isinstance(error, UserError):
        message = scrub(str(error), secrets)
        print(f"xp: {message}", file=sys.stderr, flush=True)
        return _ended(State.FAILED, error.exit_code, error={"type": type(error).__name__, "message": message})
    text = scrub(traceback.format_exc(), secrets)
    print(text, file=sys.stderr, flush=True)
    brief = {"type": type(error).__name__, "message": scrub(str(error), secrets)}
    return _ended(State.FAILED, FAILED, error=brief, traceback=text)


def _ended(state: State, code: int, **fields: JSON) -> dict[str, JSON]:
    return {"state": state, "ended": now(), "exit": code, **fields}


def mark_interrupted(folder: str | Path, reason: str) -> None:
    """Write down that a run's process is gone (killed after its grace time); it can be resumed."""
    record = Record(Path(folder) / RECORD)
    if record.state is State.RUNNING:
        record.update(state=State.PENDING, interrupted=True, ended=now(), exit=128 + signal.SIGKILL, reason=reason)


def mark_failed(folder: str | Path, message: str) -> None:
    """Write down that a run's process died of itself: a crash, or the system killed it for its memory."""
    record = Record(Path(folder) / RECORD)
    record.update(
        state=State.FAILED, ended=now(), exit=FAILED, error={"type": "ProcessDied", "message": message}, traceback=None
    )
    with (Path(folder) / LOG).open("a") as log:
        log.write(f"xp: {message}\n")
