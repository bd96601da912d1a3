"""Whole programs that are really interrupted and really killed, and run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydra_plugins.xp_executor_base import _machine
from xp.runs import RunFolder, State
from xp.runs.records.record import process_start

APP = Path(__file__).resolve().parent / "app" / "app.py"
pytestmark = pytest.mark.timeout(60)


def start(*overrides: str) -> subprocess.Popen:
    command = [sys.executable, str(APP), *overrides, "-m"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(condition, *processes) -> None:
    while not condition():
        assert all(process.poll() is None for process in processes), processes[0].communicate()[0]
        time.sleep(0.01)


def at_work(*folders: Path) -> bool:
    """Whether all these jobs have begun and wait in their second step."""
    return all((folder / "state").exists() and (folder / "state").read_text() == "2" for folder in folders)


def gone(record) -> bool:
    return process_start(record["pid"]) != record["process_start"]


@pytest.fixture
def sweep(place):
    """Two jobs that wait in their second step for the file `go`, and a third one behind them."""
    folders = [place / "multirun" / "sweep" / f"seed_{seed}" for seed in (1, 2, 3)]
    return [f"work.wait_for={place}/go", "work.steps=6", "seed=1,2,3", "hydra.launcher.n_jobs=2"], folders, place / "go"


def finish(overrides, go) -> str:
    go.write_text("")
    process = start(*overrides)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0 and output.splitlines()[-1] == "3 done"
    return output


def assert_whole(folder: Path, attempts: int) -> None:
    run = RunFolder(folder)
    assert run.record().state is State.DONE and run.record()["attempts"] == attempts
    assert (folder / "state").read_text() == "6"


def test_ctrl_c_lets_jobs_leave_in_good_order_and_the_same_command_resumes(sweep):
    overrides, folders, go = sweep
    process = start(*overrides)
    wait_for(lambda: at_work(*folders[:2]), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the controller and to the workers
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "3 interrupted: xp" in output.splitlines()[-1]
    for folder in folders[:2]:
        record = RunFolder(folder).record()
        assert record.state is State.PENDING and record.interrupted and gone(record)
    assert not (folders[2] / "state").exists()
    output = finish(overrides, go)
    assert "1 to run, 2 to resume" in output
    assert_whole(folders[0], 2)
    assert_whole(folders[2], 1)


def test_a_second_ctrl_c_does_not_wait(sweep, place):
    overrides, folders, go = sweep
    process = start(*overrides, "hydra.launcher.grace_s=1000")
    wait_for(lambda: at_work(*folders[:2]), process)
    for pid in [RunFolder(folder).record()["pid"] for folder in folders[:2]]:
        os.kill(pid, signal.SIGSTOP)  # jobs that do not hear
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "leaving" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    for folder in folders[:2]:
        record = RunFolder(folder).record()
        assert record.interrupted and gone(record) and "asked to leave" in record["reason"]


def test_kill_9_of_the_whole_group_leaves_what_can_be_resumed(sweep):
    overrides, folders, go = sweep
    process = start(*overrides)
    wait_for(lambda: at_work(*folders[:2]), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    records = [RunFolder(folder).record() for folder in folders[:2]]
    wait_for(lambda: all(gone(record) for record in records))
    assert all(record.state is State.RUNNING and record.interrupted for record in records)
    assert "1 to run, 2 to resume" in finish(overrides, go)
    assert_whole(folders[1], 2)


def test_workers_leave_when_their_controller_is_killed(sweep):
    overrides, folders, go = sweep
    process = start(*overrides)
    wait_for(lambda: at_work(*folders[:2]), process)
    process.kill()
    process.wait()
    records = [RunFolder(folder).record() for folder in folders[:2]]
    wait_for(lambda: all(gone(record) for record in records))
    assert all(RunFolder(folder).record().interrupted for folder in folders[:2])
    finish(overrides, go)
    assert_whole(folders[0], 2)


def test_a_second_sweep_adopts_what_the_first_one_runs(sweep):
    overrides, folders, go = sweep
    first = start(*overrides)
    wait_for(lambda: at_work(*folders[:2]), first)
    second = start(*overrides)
    wait_for(lambda: (folders[2] / "state").exists(), first, second)  # the third job is taken by the second sweep
    go.write_text("")
    assert first.communicate(timeout=60)[0].splitlines()[-1] == "3 done"
    output = second.communicate(timeout=60)[0]
    assert output.splitlines()[-1] == "3 done" and "2 running" in output
    for folder in folders:
        assert_whole(folder, 1)


@pytest.mark.timeout(180)
def test_two_sweeps_begun_at_the_same_instant_run_each_job_once(sweep):
    overrides, folders, go = sweep
    go.write_text("")
    both = [start(*overrides) for _ in range(2)]
    outputs = [process.communicate(timeout=150)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    for folder in folders:
        assert_whole(folder, 1)


def test_a_worker_killed_from_outside_fails_its_job_by_name(sweep):
    overrides, folders, go = sweep
    process = start(*overrides)
    wait_for(lambda: at_work(*folders[:2]), process)
    os.kill(RunFolder(folders[0]).record()["pid"], signal.SIGKILL)
    go.write_text("")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "2 done, 1 failed: xp" in output
    assert "SIGKILL" in RunFolder(folders[0]).record()["error"]["message"]


def test_a_worker_without_work_imports_ahead_what_the_next_stage_needs(place):
    process = start("+experiment=chain", f"work.wait_for={place}/go", "hydra.launcher.n_jobs=2")
    folder = place / "multirun" / "chain"
    wait_for(lambda: (folder / "warmed.txt").exists() and at_work(folder / "pretrain"), process)
    (place / "go").write_text("")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    job, pid = (folder / "warmed.txt").read_text().split()
    by_pid = {name: RunFolder(folder / name).record()["pid"] for name in ("pretrain", "horizon_1", "horizon_4")}
    assert job == "horizon_1" and int(pid) != by_pid["pretrain"]
    assert int(pid) in by_pid.values()


def test_each_worker_gets_one_gpu_and_the_same_threads_whatever_n_jobs(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: a)'\necho 'GPU 1: H200 (UUID: b)'\n")
    tool.chmod(0o755)
    assert _machine.gpus({"PATH": str(tmp_path)}) == ["0", "1"]
    assert _machine.gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "3, GPU-x"}) == ["3", "GPU-x"]
    assert _machine.gpus({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}) == []
    assert _machine.gpus({"PATH": str(tmp_path / "none")}) == []
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert _machine.gpus({"PATH": str(tmp_path)}) == []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    two = [_machine.worker_environment(number, 2, ["0", "1"], None) for number in range(2)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in two] == ["0", "1"]
    assert {each["OMP_NUM_THREADS"] for each in two} == {"4"}
    three = _machine.worker_environment(2, 3, ["0", "1"], None)
    assert three["CUDA_VISIBLE_DEVICES"] == "0" and three["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert three["OMP_NUM_THREADS"] == "4"
    assert _machine.worker_environment(0, 1, [], 3)["OMP_NUM_THREADS"] == "3"


def test_cancel_ends_a_sweep_of_another_shell_in_good_order(sweep):
    overrides, folders, go = sweep
    process = start(*overrides)
    wait_for(lambda: at_work(*folders[:2]), process)
    command = [sys.executable, "-m", "xp", "task=cancel", f"cancel.folder={folders[0].parent}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and f"process {process.pid} was asked to leave" in done.stdout, (
        done.stdout + done.stderr
    )
    process.communicate(timeout=60)
    assert process.returncode == 130 and RunFolder(folders[0]).record().interrupted
    finish(overrides, go)
    assert_whole(folders[0], 2)
