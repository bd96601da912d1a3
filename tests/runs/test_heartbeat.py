import json
import os
import time

import pytest

from xp.atomic import write_json
from xp.runs import RunFolder
from xp.runs.executors.protocol import JobState, by_record
from xp.runs.executors.submitted import ask, executor_of, is_open, note_handle, note_launcher
from xp.runs.records.heartbeat import HANDLE_VARIABLE, HEARTBEAT, STALE_S, beating, beats, last_beat


def wait_for(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.fixture
def elsewhere(tmp_path):
    """The folder of a job that says it runs on another host."""
    folder = tmp_path / "exp" / "job"
    write_json(folder / "record.json", {"state": "running", "host": "node-of-another-name", "pid": 1})
    return folder


def test_a_running_job_says_again_and_again_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv(HANDLE_VARIABLE, "17_3")
    steps = iter(range(1000))
    with beating(tmp_path, lambda: next(steps), every_s=0.01) as handle:
        wait_for(lambda: (last_beat(tmp_path).get("step") or 0) >= 2)
        assert handle == "17_3" and beats(tmp_path)
    beat = json.loads((tmp_path / HEARTBEAT).read_text())
    assert beat["pid"] == os.getpid() and beat["handle"] == "17_3" and beat.keys() == {
        "time", "host", "pid", "handle", "step",
    }  # fmt: skip
    time.sleep(0.05)
    assert json.loads((tmp_path / HEARTBEAT).read_text()) == beat


def test_a_run_on_another_host_is_alive_only_while_its_heart_beats(elsewhere):
    record = RunFolder(elsewhere).record()
    assert not record.alive and record.standing == "interrupted"
    write_json(elsewhere / HEARTBEAT, {"time": time.time()})
    assert record.alive and record.standing == "running" and by_record(record) is JobState.RUNNING
    old = time.time() - STALE_S - 1
    write_json(elsewhere / HEARTBEAT, {"time": old})
    assert record.alive  # a clock that is behind: the file itself is young
    os.utime(elsewhere / HEARTBEAT, (old, old))
    assert not record.alive and by_record(record) is JobState.INTERRUPTED


def test_an_executors_word_counts_more_than_the_heartbeat(elsewhere):
    record = RunFolder(elsewhere).record()
    write_json(elsewhere / HEARTBEAT, {"time": time.time()})
    assert is_open(record, None) and is_open(record, JobState.WAITING) and not is_open(record, JobState.FAILED)
    write_json(elsewhere / "record.json", {"state": "done"})
    assert not is_open(RunFolder(elsewhere).record(), JobState.RUNNING)


def test_any_process_finds_the_executor_of_a_job_by_its_folder(elsewhere):
    assert executor_of(elsewhere) is None and ask([elsewhere]) == {}
    note_handle(elsewhere, "local", str(elsewhere))
    note_launcher(elsewhere.parent, "local", {"n_jobs": 1, "hub_token": "hush"})
    assert "hush" not in (elsewhere.parent / "launcher.json").read_text()
    note_launcher(elsewhere.parent, "local", {"n_jobs": 1})
    executor = executor_of(elsewhere)
    assert executor is not None and executor.name == "local" and executor.n_jobs == 1
    assert ask([elsewhere]) == {elsewhere: JobState.INTERRUPTED}
    note_handle(elsewhere, "of-a-package-that-is-not-here", "7")
    assert ask([elsewhere]) == {}


def test_versions_in_records_are_those_that_the_packages_metadata_give():
    from importlib import metadata

    from xp.runs.records.record import DISTRIBUTION, versions

    assert len(versions()) > 10 and dict(versions())["xp"] == metadata.version(DISTRIBUTION)
    assert all(metadata.version(name) == version for name, version in versions() if name != "xp")
