"""Tasks that take no time: they count, note in the experiment's journal that they began and ended, and obey."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from omegaconf import OmegaConf

from xp.atomic import write_text


def note(run, word):
    journal = os.open(run.folder.parent / "journal.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(journal, f"{word} {run.folder.name} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n".encode())
    os.close(journal)


def warm_up(folder):
    """What a worker with time to spare does ahead: here it notes for which job, and who."""
    job = Path(folder)
    write_text(job.parent / "warmed.txt", f"{job.name} {os.getpid()}", durable=False)


def run(run):
    note(run, "begin")
    state = run.folder / "state"
    step = int(state.read_text()) if state.exists() else 0
    work = run.config.work
    if run.config.get("start_from"):
        run.log(f"starting from {run.config.start_from}")
    with run.progress(work.steps, "counting", start=step) as progress:
        while step < work.steps:
            step += 1
            write_text(state, str(step), durable=False)
            progress.advance(loss=1.0 / step)
            run.training_log.append({"step": step, "loss": (run.config.lr.peak - 0.2) ** 2})
            hoard = b"1" * (work.hoard_mb * 1_000_000)  # noqa: F841 - memory that is really there while it waits
            while work.wait_for and step == 2 and not os.path.exists(work.wait_for):
                if run.should_stop() and not work.get("deaf"):
                    raise run.interrupted
                time.sleep(0.005)
    if work.crash:
        os.kill(os.getpid(), signal.SIGSEGV)
    if work.fail and not os.path.exists(run.folder.parent / "mended"):
        raise ValueError(f"told to fail{work.get('api_key', '')}")
    summary = {"horizon": run.config.horizon.train, "seed": run.config.seed}
    if notes := run.config.get("notes"):  # what a secret is worth here, without saying it
        summary["notes"] = hashlib.sha256(json.dumps(OmegaConf.to_container(notes)).encode()).hexdigest()
    run.write_summary(summary)
    note(run, "end")
