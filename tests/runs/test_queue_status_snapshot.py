import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xp.atomic import write_json
from xp.errors import UserError
from xp.runs.executors.protocol import JobState, Submission, executor_named
from xp.runs.executors.queue import JobQueue
from xp.runs.executors.status import counts, rows
from xp.runs.jobs import snapshot
from xp.runs.records.record import process_start


def chain(*needs: tuple[int, ...], always: tuple[int, ...] = ()) -> list[Submission]:
    return [
        Submission(folder=Path(str(number)), needs=tuple(Path(str(n)) for n in needed), always=number in always)
        for number, needed in enumerate(needs)
    ]


def ready(queue: JobQueue) -> list[int]:
    return [int(job.folder.name) for job in queue.ready()]


def test_a_job_is_ready_when_its_own_needs_are_done():
    queue = JobQueue(chain((), (), (0,), (1,), (2, 3)))
    assert ready(queue) == [0, 1]
    queue.set(Path("1"), JobState.RUNNING)
    queue.set(Path("0"), JobState.DONE)
    assert ready(queue) == [2]


def test_what_waits_for_nothing_but_running_jobs_comes_next():
    queue = JobQueue(chain((), (), (0,), (0, 1), (2,)))
    assert queue.coming() == []
    queue.set(Path("0"), JobState.RUNNING)
    assert [job.folder.name for job in queue.coming()] == ["2"]
    queue.set(Path("1"), JobState.DONE)
    assert [job.folder.name for job in queue.coming()] == ["2", "3"]
    queue.set(Path("0"), JobState.DONE)
    assert queue.coming() == []


def test_failure_blocks_everything_downstream_but_what_runs_always():
    queue = JobQueue(chain((), (), (0,), (2,), (1, 3), always=(4,)))
    queue.set(Path("0"), JobState.FAILED)
    assert [queue.states[Path(str(n))] for n in (2, 3)] == [JobState.BLOCKED] * 2 and ready(queue) == [1]
    queue.set(Path("1"), JobState.DONE)
    assert ready(queue) == [4] and queue.open == 1
    queue.set(Path("4"), JobState.DONE)
    assert queue.finished


def test_stopping_interrupts_what_waits_and_what_would_follow():
    queue = JobQueue(chain((), (0,), (1,)))
    queue.set(Path("0"), JobState.RUNNING)
    queue.stop()
    assert [queue.states[Path(str(n))] for n in range(3)] == [
        JobState.RUNNING, JobState.INTERRUPTED, JobState.INTERRUPTED,
    ]  # fmt: skip


def test_a_folder_comes_once_and_after_its_needs():
    with pytest.raises(UserError, match="share the folder"):
        JobQueue([*chain(()), *chain(())])
    with pytest.raises(UserError, match="not submitted before"):
        JobQueue(chain((1,), ()))


@given(st.data())
def test_any_graph_runs_to_its_end_and_never_starts_a_job_before_its_needs(data):
    size = data.draw(st.integers(1, 8))
    needs = [tuple(sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=3)))) if n else () for n in range(size)]
    queue, done = JobQueue(chain(*needs)), set()
    while not queue.finished:
        number = data.draw(st.sampled_from(ready(queue)))
        assert set(needs[number]) <= done
        failed = data.draw(st.booleans())
        queue.set(Path(str(number)), JobState.FAILED if failed else JobState.DONE)
        done |= set() if failed else {number}
    for number, state in queue.states.items():
        assert (state is JobState.BLOCKED) == (not set(needs[int(number.name)]) <= done)


def test_the_local_executor_is_found_by_name_and_an_unknown_one_is_explained():
    executor = executor_named("local", n_jobs=1)
    assert executor.name == "local" and executor.poll() == {}
    executor.close()
    with pytest.raises(UserError, match="did you mean 'local'"):
        executor_named("locale")


def test_status_reads_every_run_from_its_files_alone(tmp_path):
    here = {"host": socket.gethostname(), "pid": os.getpid(), "process_start": process_start(os.getpid())}
    began = "2026-01-01T00:00:00+00:00"
    for name, record in {
        "b": {"state": "done", "created": "1", "started": began, "ended": "2026-01-01T00:01:05+00:00"},
        "a": {"state": "running", "created": "2", "started": began, **here},
        "c": {"state": "running", "created": "3", "started": began, **here, "process_start": "gone"},
        "d": {"state": "failed", "created": "4", "error": {"message": "broken\nlong story"}},
    }.items():
        write_json(tmp_path / "exp" / name / "record.json", {"stage": "s", "experiment": "exp", **record})
    progress = {"description": "training", "step": 30, "total": 90, "unit": "step", "rate": 2.0, "shown": {"loss": 0.5}}
    write_json(tmp_path / "exp" / "a" / "progress.json", {**progress, "time": 0})
    (tmp_path / "exp" / "e").mkdir()
    (tmp_path / "exp" / "e" / "record.json").write_text("{")
    (tmp_path / "exp" / ".code").mkdir()
    table = {row.name: row for row in rows(tmp_path)}
    assert {name: row.state for name, row in table.items()} == {
        "b": "done", "a": "running", "c": "interrupted", "d": "failed", "e": "damaged",
    }  # fmt: skip
    assert [row.name for row in rows(tmp_path)] == ["e", "b", "a", "c", "d"]
    assert table["a"].left_s == 30.0 and table["b"].seconds == 65.0
    assert table["a"].cells()[4:] == ["30/90 steps", "training loss 0.5", "0:30 left"]
    assert table["b"].cells()[-1] == "1:05" and table["d"].cells()[5] == "broken"
    assert counts(rows(tmp_path)) == {"damaged": 1, "done": 1, "running": 1, "interrupted": 1, "failed": 1}


def test_a_snapshot_holds_the_code_once_and_changes_with_it(tmp_path):
    package = tmp_path / "site" / "xp"
    package.mkdir(parents=True)
    (package / "a.py").write_text("one")
    (package / "notes.txt").write_text("not code")
    first = snapshot.take(tmp_path / "exp", package)
    assert snapshot.take(tmp_path / "exp", package) == first
    (package / "a.py").write_text("two")
    second = snapshot.take(tmp_path / "exp", package)
    assert first != second and len(list((tmp_path / "exp" / ".code").iterdir())) == 2
    assert (tmp_path / "exp" / ".code" / first / "xp" / "a.py").read_text() == "one"
    assert not (tmp_path / "exp" / ".code" / first / "xp" / "notes.txt").exists()


def test_the_snapshot_of_a_checkout_holds_source_plugins_and_configurations():
    names = set(snapshot.code_files())
    assert {"src/xp/runs/jobs/snapshot.py", "conf/config.yaml", "pyproject.toml"} <= names
    assert "launchers/hydra_plugins/xp_staged_sweeper/staged_sweeper.py" in names
    assert not any("__pycache__" in name for name in names)
