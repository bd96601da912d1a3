"""A process for one job: what its end means, who asks it to leave, and that one attempt alone is at work."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from omegaconf import OmegaConf

from xp.runs import RunFolder, State
from xp.runs.execution.run_once import compose_job
from xp.runs.executors.job_process import BUSY, ended_state, start_job
from xp.runs.executors.protocol import JobState
from xp.runs.jobs.frozen import freeze

pytestmark = pytest.mark.timeout(120)
TASKS = """
import os, time

def well(run):
    run.write_summary({"token": len(run.config.get("api_key") or "")})

def fails(run):
    raise ValueError("broken")

def dies(run):
    os._exit(9)

def waits(run):
    (run.folder / "begun").write_text("")
    while not run.should_stop():
        time.sleep(0.02)
    (run.folder / "saved").write_text("")
    raise run.interrupted

def deaf(run):
    (run.folder / "begun").write_text("")
    while True:
        time.sleep(0.02)
"""


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    """Freezes a job with more keys."""
    (tmp_path / "some_tasks.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(**more):
        config = OmegaConf.create({"task": {"name": "train"}, "seed": 1, **more})
        freeze(compose_job(config, tmp_path / "run", result_config=dict))
        return tmp_path / "run"

    return make


@pytest.fixture
def job(frozen):
    return frozen()


def begun(folder, process):
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert process.poll() is None and time.monotonic() < deadline, RunFolder(folder).log()
        time.sleep(0.02)


def test_a_job_is_done_and_secrets_reach_it_by_no_file(frozen):
    job = frozen(api_key="hunter2hunter2")
    process = start_job(job, target="some_tasks:well")
    assert process.wait() == 0 and ended_state(job, 0, was_asked=False) is JobState.DONE
    assert RunFolder(job).summary() == {"token": 14}
    assert b"hunter2hunter2" not in b"".join(file.read_bytes() for file in job.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("task", "error"), [("fails", "broken"), ("dies", "the job's process ended with exit code 9"), ("no", "no'")]
)
def test_a_job_that_fails_says_so_however_it_ends(job, task, error):
    code = start_job(job, target=f"some_tasks:{task}").wait()
    assert code not in (0, BUSY) and ended_state(job, code, was_asked=False) is JobState.FAILED
    record = RunFolder(job).record()
    assert record.state is State.FAILED and error in record["error"]["message"]


def test_a_process_that_cannot_begin_is_a_failed_job(job):
    (job / "job.json").write_text("{}")
    code = start_job(job).wait()
    assert ended_state(job, code, was_asked=False) is JobState.FAILED
    assert "job.json" in RunFolder(job).log()


def test_a_second_process_finds_it_busy_and_the_first_leaves_when_it_is_asked(job):
    first = start_job(job, target="some_tasks:waits")
    begun(job, first)
    assert start_job(job, target="some_tasks:well").wait() == BUSY
    first.terminate()
    assert ended_state(job, first.wait(), was_asked=True) is JobState.INTERRUPTED
    assert (job / "saved").exists() and RunFolder(job).record().interrupted
    again = start_job(job, target="some_tasks:well").wait()
    assert ended_state(job, again, was_asked=False) is JobState.DONE


def test_a_job_that_had_to_be_killed_was_interrupted_if_it_was_asked_before(job):
    process = start_job(job, target="some_tasks:deaf")
    begun(job, process)
    process.terminate()
    time.sleep(0.2)
    process.kill()
    assert ended_state(job, process.wait(), was_asked=True) is JobState.INTERRUPTED
    assert "killed by signal 9" in RunFolder(job).record()["reason"]


def test_a_job_leaves_when_whoever_started_it_is_killed(job):
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            from pathlib import Path
            from xp.runs.executors.job_process import start_job
            print(start_job(Path({str(job)!r}), target="some_tasks:waits").pid, flush=True)
            import time; time.sleep(600)
        """)], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    begun(job, parent)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while not RunFolder(job).record().interrupted:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (job / "saved").exists() and child > 0
