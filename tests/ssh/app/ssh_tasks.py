"""Tasks that take no time and whose result is a chain of hashes: one wrong or missing step changes it.

`work.hold` names a file in the home of whoever runs the task: while it is there, the task waits at its second step, in
whichever attempt. `~/slowness` multiplies the time of a step.
"""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from xp import atomic
from xp.atomic import write_json, write_text


def run(run):
    if run.config.task.name == "report":
        report(run)
    else:
        count(run)


def count(run):
    work = run.config.work
    step, value = restore(run)
    with run.progress(work.steps, "counting", start=step) as progress:
        while step < work.steps:
            step += 1
            value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
            time.sleep(work.step_s * slowness())
            run.training_log.append({"step": step, "loss": 1.0 / step})
            progress.advance(loss=1.0 / step)
            if step % work.every == 0:
                checkpoint(run, step, value)
            hold(run, step)
            if step == work.die_at and run.record["attempts"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    if work.fail:
        raise ValueError("told to fail")
    with atomic.folder(run.folder / "final") as final:
        (final / "value.txt").write_text(value)
    run.write_summary({"value": value, "key": os.environ.get("WANDB_API_KEY", "")[:3]})


def restore(run):
    """The newest checkpoint of an earlier attempt, or the result of the run that this one starts from."""
    places = sorted(run.folder.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if run.resuming and places:
        state = json.loads((places[-1] / "state.json").read_text())
        blob(run, places[-1], check=True)
        run.log(f"resumed at {state['step']}")
        return state["step"], state["value"]
    source = run.config.start_from
    before = (Path(source) / "final" / "value.txt").read_text() if source else ""
    return 0, hashlib.sha256(f"{before} {run.config.seed} {run.config.get('horizon')}".encode()).hexdigest()


def checkpoint(run, step, value):
    with atomic.folder(run.folder / "checkpoints" / f"checkpoint-{step}") as folder:
        write_json(folder / "state.json", {"step": step, "value": value})
        blob(run, folder)
    for old in sorted(run.folder.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[:-2]:
        for each in old.iterdir():
            each.unlink()
        old.rmdir()


def blob(run, folder, check=False):
    """A file that is too large to travel inside an answer."""
    if not run.config.work.blob_kb:
        return
    content = hashlib.sha256(run.folder.name.encode()).digest() * (run.config.work.blob_kb * 32)
    if check:
        assert (folder / "blob.bin").read_bytes() == content
    else:
        (folder / "blob.bin").write_bytes(content)


def hold(run, step):
    gate = run.config.work.hold
    while gate and step == 2 and (Path.home() / gate).exists():
        if run.should_stop():
            raise run.interrupted
        time.sleep(0.02)


def slowness():
    path = Path.home() / "slowness"
    return float(path.read_text()) if path.exists() else 1.0


def report(run):
    values = {}
    for need in sorted(run.folder.parent.glob("*/final/value.txt")):
        values[need.parents[1].name] = need.read_text()
    write_text(run.folder.parent / "report.html", json.dumps(values, indent=1))
    run.write_summary({"cells": len(values)})
