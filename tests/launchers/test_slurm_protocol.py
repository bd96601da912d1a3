"""One attempt of a job at work, whoever submits it how often: on the real daemons."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import wait_for

from hydra_plugins.xp_slurm_launcher import _commands
from hydra_plugins.xp_slurm_launcher._commands import SlurmUnavailable
from hydra_plugins.xp_slurm_launcher._job_specs import job_specs
from xp.runs import RunFolder, State
from xp.runs.executors.protocol import executor_named
from xp.runs.executors.status import rows, with_executors

APP = Path(__file__).resolve().parent / "app"
SLURM = ("hydra/launcher=slurm", "+hydra.launcher.target=fake_tasks:run")
pytestmark = pytest.mark.timeout(300)


def record(folder: Path):
    return RunFolder(folder).record()


def finished(*folders: Path) -> bool:
    return all(record(folder).state in (State.DONE, State.FAILED) for folder in folders)


def states(folder: Path) -> dict[str, str]:
    return {row.name: row.state for row in with_executors(rows(folder))}


def begun(folder: Path) -> bool:
    return (folder / "state").exists() and (folder / "state").read_text() == "2"


def journal(folder: Path) -> list[str]:
    return [" ".join(line.split()[:2]) for line in (folder / "journal.txt").read_text().splitlines()]


def queue(cluster) -> list[str]:
    return cluster.tell("squeue", "-h", "-r", "-o", "%i").split()


def shells(number: int, *overrides: str) -> list[subprocess.Popen]:
    """The same command in several shells at the same instant (after their imports)."""
    command = [sys.executable, str(APP / "app.py"), *overrides, "-m"]
    return [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(number)
    ]


@pytest.fixture
def waiting(place):
    """One job that waits in its second step for the file `go`."""
    name = "sweep"
    return ["work.steps=6", "seed=1", f"work.wait_for={place}/go"], place / "multirun" / "sweep" / name, place / "go"


def both_at_once(cluster, place: Path) -> None:
    """Two shells, one command: every job is submitted once, cancel ends all, and the command then runs each once."""
    lean = ("+experiment=chain", "horizon.train=1,4", "horizon.predict=1", f"work.wait_for={place}/go", *SLURM)
    folder = place / "multirun" / "chain"
    outputs = [(shell.communicate(timeout=200)[0], shell.returncode) for shell in shells(2, *lean)]
    assert [code for _, code in outputs] == [0, 0], outputs
    assert sorted(output.count("submitted: ") for output, _ in outputs) == [0, 6], outputs
    handles = {record(run.folder)["handle"] for run in rows(folder)}
    assert handles == set(queue(cluster)) and len(handles) == 6
    done = subprocess.run([sys.executable, "-m", "xp", "task=cancel", f"cancel.folder={folder}"], timeout=120)
    assert done.returncode == 0
    wait_for(lambda: not queue(cluster))
    wait_for(lambda: set(states(folder).values()) == {"cancelled"})
    (place / "go").write_text("")
    for shell in shells(2, *lean):
        assert shell.communicate(timeout=200) and shell.returncode == 0
    wait_for(lambda: finished(*(run.folder for run in rows(folder))))
    ends = [line for line in journal(folder) if line.startswith("end")]
    assert len(ends) == 6 == len(set(ends))
    wait_for(lambda: not queue(cluster))


def test_two_shells_with_one_command_submit_each_job_once_and_cancel_ends_all(on_slurm, place):
    both_at_once(on_slurm, place)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_shells_with_one_command_twenty_times(on_slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(APP))
    for number in range(20):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.chdir(place)
        both_at_once(on_slurm, place)


def test_an_sbatch_whose_answer_was_lost_is_found_by_its_name_and_not_repeated(
    on_slurm, xp, place, waiting, monkeypatch
):
    overrides, folder, go = waiting
    call = _commands.call

    def lost(program, *arguments, **options):
        answer = call(program, *arguments, **options)
        if program == "sbatch" and "--parsable" in arguments:
            raise SlurmUnavailable("sbatch has not answered")
        return answer

    monkeypatch.setattr(_commands, "call", lost)
    code, output = xp(*overrides, *SLURM)
    assert code == 0 and f"submitted: sweep/{folder.name} -> slurm " in output
    assert queue(on_slurm) == [record(folder)["handle"]]
    go.write_text("")
    wait_for(lambda: finished(folder))


def test_a_submission_that_slurm_takes_late_leaves_without_work(on_slurm, xp, place, waiting):
    overrides, folder, go = waiting
    xp(*overrides, *SLURM, "+hydra.launcher.extra.hold=true")
    (late,) = job_specs(folder.parent)
    on_slurm.tell("scancel", str(late.job_id))
    wait_for(lambda: not queue(on_slurm))
    code, output = xp(*overrides, *SLURM)
    assert code == 0 and "submitted: " in output
    wait_for(lambda: begun(folder))
    handle = on_slurm.tell("sbatch", "--parsable", str(late.path.with_suffix(".sh")))
    on_slurm.tell("scontrol", "release", handle)
    wait_for(lambda: on_slurm.job(handle)["JobState"] in ("CANCELLED", "FAILED"))
    assert record(folder).state is State.RUNNING and record(folder)["handle"] != handle
    go.write_text("")
    wait_for(lambda: finished(folder))
    assert journal(folder.parent) == [f"begin {folder.name}", f"end {folder.name}"] and record(folder)["attempts"] == 1


def test_a_second_job_of_the_same_submission_waits_and_finds_the_work_done(on_slurm, xp, place, waiting):
    overrides, folder, go = waiting
    xp(*overrides, *SLURM)
    wait_for(lambda: begun(folder))
    (job_spec,) = job_specs(folder.parent)
    handle = on_slurm.tell("sbatch", "--parsable", str(job_spec.path.with_suffix(".sh")))
    wait_for(lambda: on_slurm.job(handle)["JobState"] == "RUNNING")
    go.write_text("")
    wait_for(lambda: on_slurm.job(handle)["JobState"] == "COMPLETED")
    assert journal(folder.parent) == [f"begin {folder.name}", f"end {folder.name}"] and record(folder)["attempts"] == 1


def test_cancel_ends_submissions_that_no_record_knows(on_slurm, xp, place, waiting):
    overrides, folder, _ = waiting
    xp(*overrides, *SLURM, "+hydra.launcher.extra.hold=true")
    record(folder).update(handle=None, submitted=None)  # as if the call had been killed right after sbatch
    done = subprocess.run(
        [sys.executable, "-m", "xp", "task=cancel", f"cancel.folder={folder}"],
        capture_output=True,
        text=True,
        timeout=99,
    )
    assert done.returncode == 0 and "slurm: cancelled" in done.stdout
    assert not queue(on_slurm) and record(folder).state is State.CANCELLED


@pytest.mark.parametrize("target", ["running", "pending", "array"])
def test_scancel_from_outside_is_written_into_the_record(on_slurm, xp, place, waiting, target):
    overrides, folder, _ = waiting
    if target == "array":
        overrides, folder = [*overrides[:1], "seed=1,2", overrides[2]], folder.with_name("seed_1")
    hold = ["+hydra.launcher.extra.hold=true"] if target == "pending" else []
    xp(*overrides, *SLURM, *hold)
    if target != "pending":
        wait_for(lambda: begun(folder))
    handle = record(folder)["handle"].partition("_")[0]
    on_slurm.tell("scancel", handle)
    wait_for(lambda: not queue(on_slurm))
    if target != "pending":  # it had a machine: it writes that down itself, with nobody looking
        wait_for(lambda: record(folder).state is State.CANCELLED, 20)
    assert set(states(folder.parent).values()) == {"cancelled"}
    assert record(folder).state is State.CANCELLED and "scancel" in record(folder)["reason"]


def test_a_task_that_does_not_leave_in_kill_wait_is_recorded_before_slurm_kills_it(on_slurm, xp, place, waiting):
    overrides, folder, _ = waiting
    xp(*overrides, "work.deaf=true", *SLURM)
    wait_for(lambda: begun(folder))
    on_slurm.tell("scancel", record(folder)["handle"])
    wait_for(lambda: record(folder).state is State.CANCELLED, 20)


def test_a_step_killed_with_all_of_its_job_is_not_left_running(on_slurm, xp, place, waiting):
    overrides, folder, _ = waiting
    xp(*overrides, *SLURM)
    wait_for(lambda: begun(folder))
    on_slurm.tell("scancel", "--full", "--signal=KILL", record(folder)["handle"])
    wait_for(lambda: not queue(on_slurm))
    wait_for(lambda: states(folder.parent)[folder.name] != "running")
    assert record(folder).state is not State.RUNNING


@pytest.mark.slow
def test_slurmctld_away_while_a_process_dies_is_waited_for_and_the_job_goes_on(on_slurm, xp, place, waiting):
    overrides, folder, go = waiting
    xp(*overrides, *SLURM)
    wait_for(lambda: begun(folder))
    go.write_text("")
    pid = record(folder)["pid"]
    os.kill(pid, signal.SIGSTOP)

    def said() -> str:
        return "".join(path.read_text() for path in (folder.parent / ".slurm").glob("*.out"))

    on_slurm.kill("slurmctld", signal.SIGTERM)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: record(folder).state is not State.RUNNING, 60)
        assert record(folder).state is State.PENDING and record(folder).interrupted
        wait_for(lambda: "trying again" in said())
    finally:
        on_slurm.restart_controller()

    def over() -> bool:
        on_slurm.start_now()
        return finished(folder)

    wait_for(over, 150, every_s=0.3)
    assert record(folder).state is State.DONE and [each["reason"] for each in record(folder)["requeues"]] == ["died"]
    assert "Traceback" not in said()


@pytest.mark.parametrize("state", ["drain", "reserved"])
def test_nodes_that_take_no_jobs_now_are_waited_for_with_a_warning(on_slurm, place, waiting, xp, state):
    overrides, folder, go = waiting
    go.write_text("")
    if state == "drain":
        on_slurm.tell("scontrol", "update", "nodename=n1,n2", "state=drain", "reason=upgrade")
    else:
        on_slurm.tell(
            "scontrol", "create", "reservation", "reservationname=works", "starttime=now", "duration=60", "user=daemon",
            "nodes=ALL", "flags=maint",
        )  # fmt: skip
    try:
        code, output = xp(*overrides, *SLURM)
        assert code == 0 and "submitted: " in output and queue(on_slurm) == [record(folder)["handle"]]
        if state == "drain":
            assert "nothing can run them now" in output and "upgrade" in output
    finally:
        if state == "drain":
            on_slurm.tell("scontrol", "update", "nodename=n1,n2", "state=resume")
        else:
            on_slurm.tell("scontrol", "delete", "reservationname=works")
    wait_for(lambda: finished(folder))


def test_an_executor_asked_about_nothing_touches_nothing(on_slurm, place):
    executor = executor_named("slurm")
    assert executor.recover(place) == {} and not (place / ".slurm").exists()
