"""Experiments on a real SLURM, with a made-up task that takes milliseconds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import alive, wait_for

from xp.errors import UserError
from xp.runs import RunFolder, State
from xp.runs.executors.protocol import Submission, executor_named
from xp.runs.executors.status import rows, with_executors
from xp.runs.executors.submitted import ask

APP = Path(__file__).resolve().parent / "app"
SLURM = ("hydra/launcher=slurm", "+hydra.launcher.target=fake_tasks:run")
pytestmark = pytest.mark.timeout(300)


def finished(*folders: Path) -> bool:
    return all(RunFolder(folder).record().state in (State.DONE, State.FAILED) for folder in folders)


def states(folder: Path) -> dict[str, str]:
    return {row.name: row.state for row in with_executors(rows(folder))}


def begun(*folders: Path) -> bool:
    """Whether all these jobs wait in their second step."""
    return all((folder / "state").exists() and (folder / "state").read_text() == "2" for folder in folders)


def journal(folder: Path) -> list[str]:
    return [" ".join(line.split()[:2]) for line in (folder / "journal.txt").read_text().splitlines()]


@pytest.fixture
def waiting(place):
    """One job that waits in its second step for the file `go`."""
    name = "sweep"
    return ["work.steps=6", "seed=1", f"work.wait_for={place}/go"], place / "multirun" / "sweep" / name, place / "go"


def test_an_experiment_is_submitted_at_once_and_the_cluster_finishes_it(on_slurm, xp, place):
    code, output = xp("+experiment=chain", *SLURM)
    assert code == 0 and output.count("submitted: ") == 14 and "14 jobs are with slurm" in output
    folder = place / "multirun" / "chain"
    handles = {job: on_slurm.job(RunFolder(folder / job).record()["handle"]) for job in ("horizon_4", "report")}
    assert handles["horizon_4"]["Dependency"].startswith("afterok:")
    assert handles["report"]["Dependency"].startswith("afterany:")
    first = RunFolder(folder / "train_h4_pred_h1").record()["handle"]
    wanted = RunFolder(folder / "horizon_4").record()["handle"]
    assert f"afterok:{wanted}" in on_slurm.job(first)["Dependency"]  # not the whole stage
    code, output = xp("+experiment=chain", *SLURM)  # while it runs: nothing is submitted twice
    assert code == 0 and "submitted:" not in output
    wait_for(lambda: finished(folder / "report"), 240)
    lines = journal(folder)
    assert len(lines) == 28 == len(set(lines)) and lines[-1] == "end report"
    assert {row.state for row in rows(folder)} == {"done"}
    nodes = {RunFolder(run.folder).record()["node"] for run in rows(folder)}
    assert nodes == {"n1", "n2"}
    code, output = xp("+experiment=chain", *SLURM)
    assert code == 0 and "14 of 14 done, nothing to run" in output


def test_a_failed_task_fails_its_slurm_job_and_the_report_still_comes(on_slurm, xp, place):
    folder = place / "multirun" / "chain"
    lean = ("+experiment=chain", "horizon.train=4", "horizon.predict=1", "work.fail=true", "start_from=x", *SLURM)
    xp(*lean)
    wait_for(lambda: finished(folder / "report", folder / "horizon_4"))
    failed = RunFolder(folder / "horizon_4").record()
    assert failed["error"]["message"] == "told to fail"
    wait_for(lambda: on_slurm.job(failed["handle"])["JobState"] == "FAILED")
    assert states(folder) == {"horizon_4": "failed", "train_h4_pred_h1": "blocked", "report": "failed"}
    (folder / "mended").write_text("")
    code, _ = xp(*lean, "hydra.sweeper.retry_failed=true", "hydra.launcher.detach=false")
    assert code == 0 and set(states(folder).values()) == {"done"}


def test_what_was_edited_after_submission_changes_nothing(on_slurm, place):
    copy = place / "program"
    shutil.copytree(APP, copy / "app")
    (copy / "app" / "app.py").write_text((APP / "app.py").read_text().replace('HERE.parents[2] / "conf"', repr_conf()))
    lr = copy / "app" / "conf" / "lr" / "cosine.yaml"
    command = [sys.executable, str(copy / "app" / "app.py"), "seed=1", *SLURM, "+hydra.launcher.extra.hold=true", "-m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = place / "multirun" / "sweep" / "sweep"
    before = RunFolder(folder).config().lr.peak
    lr.write_text(lr.read_text().replace("peak: 1e-3", "peak: 77.0"))
    assert before == 1e-3 and "77.0" in lr.read_text()
    on_slurm.tell("scontrol", "release", RunFolder(folder).record()["handle"])
    wait_for(lambda: finished(folder))
    loss = RunFolder(folder).training_log()[-1]["loss"]
    assert loss == pytest.approx((before - 0.2) ** 2) and RunFolder(folder).config().lr.peak == before


def repr_conf() -> str:
    return f'Path("{APP.parents[2] / "conf"}")'


def test_a_sweep_larger_than_an_array_may_be_is_split(on_slurm, xp, place):
    code, _ = xp("seed=0,1,2,3,4", "hydra.launcher.detach=false", *SLURM)
    assert code == 0
    ids = {RunFolder(row.folder).record()["handle"].partition("_")[0] for row in rows(place / "multirun")}
    assert len(ids) == 2 and states(place / "multirun" / "sweep") == {f"seed_{n}": "done" for n in range(5)}


def test_a_killed_job_is_noticed_within_ten_seconds_without_accounting(on_slurm, waiting, place):
    overrides, folder, _ = waiting
    command = [sys.executable, str(APP / "app.py"), *overrides, *SLURM, "hydra.launcher.detach=false"]
    command += ["hydra.launcher.retries=0", "-m"]
    controller = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: begun(folder) or controller.poll() is not None)
    killed = time.monotonic()
    os.kill(RunFolder(folder).record()["pid"], signal.SIGKILL)
    output = controller.communicate(timeout=120)[0]
    assert time.monotonic() - killed < 10  # from the kill to the end of the waiting command
    assert controller.returncode == 1 and "killed (SIGKILL)" in output and "retry_failed=true" in output


def test_jobs_of_a_call_killed_before_it_noted_them_are_adopted(on_slurm, xp, place, waiting):
    overrides, folder, go = waiting
    xp(*overrides, *SLURM, "hydra.sweeper.dry_run=true")
    code, _ = xp(*overrides, *SLURM, "+hydra.launcher.extra.hold=true")
    record = RunFolder(folder).record()
    handle = record["handle"]
    record.update(handle=None, submitted=None)  # as if the call had been killed right after sbatch
    code, output = xp(*overrides, *SLURM)
    assert code == 0 and f"goes on: sweep/{folder.name} -> slurm {handle}" in output
    assert len(on_slurm.tell("squeue", "-h", "-r").splitlines()) == 1
    go.write_text("")
    on_slurm.tell("scontrol", "release", handle)
    wait_for(lambda: finished(folder))
    assert journal(folder.parent) == [f"begin {folder.name}", f"end {folder.name}"]


def test_cancel_ends_what_runs_and_what_waits_and_the_same_command_goes_on(on_slurm, xp, place, waiting):
    overrides, folder, go = waiting
    both = [
        overrides[0],
        "seed=1,2",
        overrides[2],
        "hydra.launcher.gpus=1",
        "+hydra.launcher.extra.nodelist=n1",
        *SLURM,
    ]
    xp(*both)
    folder, other = folder.with_name("seed_1"), folder.with_name("seed_2")
    wait_for(lambda: begun(folder))
    assert states(folder.parent) == {folder.name: "running", other.name: "queued"}
    follower = subprocess.Popen(
        [sys.executable, "-u", "-m", "xp", "task=attach", f"attach.run={other}"], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert follower.stdout is not None and follower.stdout.readline().startswith("queued ")
    done = xp_command("task=cancel", f"cancel.folder={folder.parent}")
    assert done.returncode == 0 and "slurm: cancelled" in done.stdout
    wait_for(lambda: states(folder.parent) == {folder.name: "cancelled", other.name: "cancelled"})
    assert f"cancelled: {other}" in follower.communicate(timeout=60)[0] and follower.returncode == 1
    go.write_text("")
    code, output = xp(*both, "hydra.launcher.detach=false")
    assert code == 0 and output.splitlines()[-1] == "2 done"
    assert journal(folder.parent).count(f"end {folder.name}") == 1


def xp_command(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "xp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_attach_follows_the_log_until_the_end_and_ctrl_c_leaves_a_waiting_call(on_slurm, place, waiting):
    overrides, folder, go = waiting
    command = [sys.executable, str(APP / "app.py"), *overrides, *SLURM, "hydra.launcher.detach=false", "-m"]
    controller = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in what a script starts
    )  # fmt: skip
    wait_for(lambda: begun(folder) or controller.poll() is not None)
    controller.send_signal(signal.SIGINT)
    output = controller.communicate(timeout=120)[0]
    assert controller.returncode == 130 and "the jobs go on" in output
    assert alive(RunFolder(folder).record()["pid"])
    follower = subprocess.Popen(
        [sys.executable, "-m", "xp", "task=attach", f"attach.run={folder}"], stdout=subprocess.PIPE, text=True
    )
    go.write_text("")
    output = follower.communicate(timeout=120)[0]
    assert follower.returncode == 0 and "counting: 6/6 steps" in output and f"done: {folder}" in output


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"partition": "hihg"}, "no partition 'hihg' (did you mean 'high'?). Partitions here: main, high"),
        ({"gpus": 9}, "No node of this cluster can give a job what is asked (gpus=9)"),
        ({"mem_gb": 4000}, "No node of this cluster can give a job what is asked (mem_gb=4000)"),
        ({"cpus": 0}, "hydra.launcher.cpus=0: expected a number of at least 1"),
        ({"gpu": 1}, "no such resource (did you mean 'gpus'?)"),
        ({"extra": {"begin": "nonsense"}}, "SLURM refuses the job (begin=nonsense)"),
        ({"stages": {"train": {"cpus": 99}}}, "No node of this cluster can give a job what is asked (cpus=99)"),
    ],
)
def test_a_request_that_slurm_refuses_is_one_clear_line_and_submits_nothing(on_slurm, place, asked, words):
    jobs = [Submission(folder=place / "exp" / "a"), Submission(folder=place / "exp" / "b", stage="train")]
    with pytest.raises(UserError) as refused:
        executor_named("slurm", **asked).submit(jobs)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert not on_slurm.tell("squeue", "-h")


@pytest.mark.parametrize(
    ("variable", "words"),
    [("SLURM_CONF", "SLURM does not answer"), ("PATH", "There is no sbatch on this machine's PATH")],
)
def test_without_slurm_the_command_says_so(on_slurm, xp, monkeypatch, variable, words):
    with monkeypatch.context() as patched:
        patched.setenv(variable, "/nowhere")
        code, output = xp("seed=1", *SLURM)
    assert code == 2 and output.splitlines()[-1].startswith("xp: ") and words in output.splitlines()[-1]


def test_what_slurm_does_not_know_is_never_taken_for_running(on_slurm, waiting, place):
    executor = executor_named("slurm")
    assert executor.states(["99999", "99998_3"]) == {} == ask([place])
    assert executor.submit([]) == [] and executor.poll() == {}
