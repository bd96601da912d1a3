"""Frozen jobs, states, resume, interruption: with fake light tasks, and with real processes that are really killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xp.errors import UserError
from xp.runs import RunFolder, State, execute, exit_code, load_run, run_once, start_run
from xp.runs.execution.run_once import compose_job
from xp.runs.jobs.frozen import Need, freeze, open_job
from xp.runs.records.lock import Busy, locked
from xp.runs.records.record import process_start


def flat_config(config):
    return {key: value for key, value in config.items() if key not in ("paths", "logger")}


def a_job(folder: Path, config: dict | None = None, **fields):
    config = {"task": {"name": "train"}, "seed": 1, **(config or {})}
    return compose_job(OmegaConf.create(config), folder, result_config=flat_config, **fields)


def frozen(folder: Path, config: dict | None = None, **fields) -> Path:
    freeze(a_job(folder, config, **fields))
    return folder


def start(folder: Path, config: dict, task, **options) -> int:
    options = {"generated": False, "result_config": flat_config} | options
    return run_once(OmegaConf.create({"task": {"name": "train"}, **config}), folder, ["seed=1"], task, **options)


def test_a_run_ends_done_with_its_files_in_place(tmp_path):
    def task(run):
        run.log("working")
        run.training_log.append({"step": 1, "loss": 0.5})
        run.write_summary({"loss": 0.5})
        assert not run.resuming and run.config.seed == 1 and run.record.state is State.RUNNING

    assert execute(frozen(tmp_path / "r"), task) is State.DONE
    run = load_run(tmp_path / "r")
    record = run.record()
    assert record.state is State.DONE and record["exit"] == 0 and record["attempts"] == 1
    assert record["git"] and record["versions"]["omegaconf"] and record["started"] <= record["ended"]
    assert len(record["identity"]) == 64
    assert run.summary() == {"loss": 0.5} and run.training_log()[0]["loss"] == 0.5 and "working" in run.log()
    assert run.config().seed == 1
    for name in ("config", "overrides"):
        assert (tmp_path / "r" / ".hydra" / f"{name}.yaml").exists()


def test_the_configuration_of_a_run_is_read_only(tmp_path):
    def task(run):
        run.config.seed = 2

    assert execute(frozen(tmp_path / "r"), task) is State.FAILED
    assert load_run(tmp_path / "r").record()["error"]["type"] == "ReadonlyConfigError"


def test_an_error_leaves_its_traceback_in_log_and_record(tmp_path, capfd):
    def task(run):
        raise ValueError("broken")

    assert execute(frozen(tmp_path / "r"), task) is State.FAILED
    record = load_run(tmp_path / "r").record()
    assert "ValueError: broken" in record["traceback"] and "in task" in record["traceback"]
    assert "ValueError: broken" in load_run(tmp_path / "r").log() and exit_code(tmp_path / "r") == 1
    assert "ValueError: broken" in capfd.readouterr().err


def test_a_users_mistake_leaves_its_message_without_traceback(tmp_path):
    def task(run):
        raise UserError("give another camera")

    assert execute(frozen(tmp_path / "r"), task) is State.FAILED
    run = load_run(tmp_path / "r")
    assert run.record()["error"]["message"] == "give another camera" and run.record()["traceback"] is None
    assert "Traceback" not in run.log() and exit_code(tmp_path / "r") == 2


def test_a_changed_frozen_job_is_refused(tmp_path):
    folder = frozen(tmp_path / "r")
    job = json.loads((folder / "job.json").read_text())
    job["config"]["seed"] = 7
    (folder / "job.json").write_text(json.dumps(job))
    called = []
    assert execute(folder, called.append) is State.FAILED
    assert not called and "changed after it was frozen" in load_run(folder).record()["error"]["message"]


def test_a_frozen_job_reads_back_as_it_was(tmp_path):
    need = Need(folder=tmp_path / "p", stage="pretrain", identity="a" * 64)
    config = {"data": {"root": "${needs:pretrain}/data", "own": "${run:x}", "late": "${best:lr,loss}"}}
    from xp.runs.jobs.stage_references import register

    register()
    job = a_job(tmp_path / "r", config, needs=(need,), stage="s", experiment="e", overrides=("a=1",))
    freeze(job)
    again = open_job(tmp_path / "r")
    assert again.config["data"] == {"root": f"{tmp_path}/p/data", "own": f"{tmp_path}/r/x", "late": "${best:lr,loss}"}
    assert (again.needs, again.identity, again.overrides) == (job.needs, job.identity, job.overrides)
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    assert open_job(moved / "r").needs[0].folder == moved / "p"


def test_done_is_skipped_failed_is_retried_and_resumes(tmp_path, capsys):
    seen = []

    def task(run):
        seen.append(run.resuming)
        if len(seen) == 1:
            raise ValueError

    assert start(tmp_path / "r", {"seed": 1}, task) == 1
    assert start(tmp_path / "r", {"seed": 1.0, "logger": {"name": "other"}}, task) == 0
    assert start(tmp_path / "r", {"seed": 1}, task) == 0
    assert seen == [False, True] and "skipped: already done" in capsys.readouterr().out


def test_another_identity_is_refused_with_the_keys_that_differ(tmp_path):
    assert start(tmp_path / "r", {"seed": 1, "lr": {"peak": 0.1}}, lambda run: None) == 0
    before = (tmp_path / "r" / "job.json").read_bytes()
    with pytest.raises(UserError, match=r"lr\.peak: 0\.1 -> 0\.2; seed: 1 -> 2 .*hydra\.run\.dir="):
        start(tmp_path / "r", {"seed": 2, "lr": {"peak": 0.2}}, lambda run: None)
    assert (tmp_path / "r" / "job.json").read_bytes() == before


def test_two_runs_of_one_second_get_two_folders(tmp_path):
    def fold(run):
        run.write_summary({"own": run.config.own})

    for _ in range(3):
        assert start(tmp_path / "arm_12", {"own": str(tmp_path / "arm_12" / "x")}, fold, generated=True) == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == ["arm_12", "arm_12_2", "arm_12_3"]
    assert RunFolder(tmp_path / "arm_12_3").summary() == {"own": str(tmp_path / "arm_12_3" / "x")}
    assert len({RunFolder(found).record()["identity"] for found in tmp_path.iterdir()}) == 1


def test_secrets_reach_the_task_but_no_file(tmp_path):
    got = []
    config = OmegaConf.create(
        {
            "task": {"name": "train"},
            "logger": {"wandb": {"api_key": "S3CRET"}, "tokens": "max"},
            "model": {"hf_token": "S3CRET"},
        }
    )
    place = start_run(config, tmp_path / "r", ["model.hf_token=S3CRET"], generated=False, result_config=flat_config)
    execute(place, lambda run: got.append((run.config.logger.wandb.api_key, run.config.logger.tokens)))
    assert got == [("S3CRET", "max")]
    for found in (tmp_path / "r").rglob("*"):
        assert found.is_dir() or "S3CRET" not in found.read_text()


def test_two_writers_never_share_a_folder(tmp_path):
    folder = frozen(tmp_path / "r")
    with locked(folder), pytest.raises(Busy, match="Another process"):
        execute(folder, lambda run: None)
    assert execute(folder, lambda run: None) is State.DONE


def test_an_unwritable_place_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        frozen(tmp_path / "file" / "r")


def test_late_values_are_taken_from_the_best_done_run_and_recorded(tmp_path):
    needs = []
    for name, peak, loss in (("a", 0.1, 3.0), ("b", 0.2, 1.0), ("c", 0.3, float("nan")), ("d", 0.4, 0.5)):
        frozen(tmp_path / name, {"lr": {"peak": peak}})
        if name != "d":  # the best of all, but not done
            execute(tmp_path / name, lambda run, loss=loss: run.training_log.append({"step": 1, "loss": loss}))
        needs.append(Need(folder=tmp_path / name, stage="lr_sweep", identity=name * 64))
    from xp.runs.jobs.stage_references import register

    register()
    config = {"lr": {"peak": "${best:lr_sweep,train_loss}"}, "other": "${best:lr_sweep,train_loss,lr.peak,max}"}
    seen = []
    execute(
        frozen(tmp_path / "z", config, needs=tuple(needs)),
        lambda run: seen.append((run.config.lr.peak, run.config.other)),
    )
    assert seen == [(0.2, 0.1)]
    assert RunFolder(tmp_path / "z").record()["late"] == {"lr.peak": 0.2, "other": 0.1}
    assert RunFolder(tmp_path / "z").config().lr.peak == 0.2
    config = {"x": "${best:lr_sweep,accuracy,lr.peak}"}
    assert execute(frozen(tmp_path / "y", config, needs=tuple(needs)), lambda run: None) is State.FAILED
    assert "none of its 4 runs" in RunFolder(tmp_path / "y").record()["error"]["message"]


COUNT = """
    import sys, os
    from pathlib import Path
    from xp.runs import execute, exit_code
    from xp.atomic import write_text

    def task(run):
        state = run.folder / "state"
        step = int(state.read_text()) if state.exists() else 0
        run.training_log.truncate_after(step)
        print("resuming", run.resuming, "at", step, flush=True)
        while step < int(os.environ["STEPS"]):
            step += 1
            run.training_log.append({"step": step, "loss": 1 / step})
            if step % 7 == 0:
                write_text(state, str(step), durable=False)
            if run.should_stop():
                write_text(state, str(step), durable=False)
                raise run.interrupted

    execute(sys.argv[1], task)
    sys.exit(exit_code(sys.argv[1]))
"""


def counting(folder: Path, steps: int) -> subprocess.Popen:
    env = {**os.environ, "STEPS": str(steps)}
    command = [sys.executable, "-c", textwrap.dedent(COUNT), str(folder)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def begun_by(pid: int, folder: Path) -> bool:
    record = RunFolder(folder).record()
    return record.get("pid") == pid and record.alive


def rows(folder: Path) -> int:
    return len(RunFolder(folder).training_log())


def wait_for(condition, process) -> None:
    while not condition():
        assert process.poll() is None, "the process ended before it was disturbed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_interrupts_in_good_order_and_the_run_resumes(tmp_path, number):
    folder = frozen(tmp_path / "r")
    process = counting(folder, 10**9)
    wait_for(lambda: begun_by(process.pid, folder) and rows(folder) > 3, process)
    process.send_signal(number)
    assert process.wait() == 128 + number
    record = RunFolder(folder).record()
    assert record.state is State.PENDING and record.interrupted and record.standing == "interrupted"
    at = int((folder / "state").read_text())
    assert counting(folder, at + 5).wait() == 0
    assert [row["step"] for row in RunFolder(folder).training_log()] == list(range(1, at + 6))
    assert RunFolder(folder).record().state is State.DONE and RunFolder(folder).record()["attempts"] == 2


def test_kill_9_counts_as_interrupted_frees_the_folder_and_resumes_whole(tmp_path):
    folder = frozen(tmp_path / "r")
    for more in (10, 25, 40):
        process = counting(folder, 10**9)
        pid = process.pid
        wait_for(lambda more=more, pid=pid: begun_by(pid, folder) and rows(folder) > more, process)
        assert RunFolder(folder).record().alive
        process.kill()
        process.wait()
        record = RunFolder(folder).record()
        assert record.state is State.RUNNING and not record.alive and record.interrupted
    at = int((folder / "state").read_text())
    assert counting(folder, at + 9).wait() == 0
    assert [row["step"] for row in RunFolder(folder).training_log()] == list(range(1, at + 10))
    assert "resuming True" in RunFolder(folder).log()


def test_a_recycled_process_number_is_not_taken_for_a_live_run(tmp_path):
    folder = frozen(tmp_path / "r")
    execute(folder, lambda run: None)
    record = RunFolder(folder).record()
    record.update(state="running", pid=os.getpid())
    assert record.alive
    record.update(process_start="another-boot/12345")
    assert not record.alive and record.interrupted
    assert process_start(2**22 + 1) is None


@pytest.mark.parametrize("what", ["a file", "a dataset", "nothing at all"])
def test_a_run_folder_that_holds_something_else_is_refused(tmp_path, what):
    from xp.runs.execution.run_once import start_run

    place = {"a file": tmp_path / "file", "a dataset": tmp_path / "dataset", "nothing at all": ""}[what]
    (tmp_path / "file").write_text("text")
    (tmp_path / "dataset/meta").mkdir(parents=True)
    with pytest.raises(UserError, match="hydra.run.dir"):
        start_run(
            OmegaConf.create({"task": {"name": "x"}}), place, ["hydra.run.dir=x"], result_config=lambda config: config
        )
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["meta"]
