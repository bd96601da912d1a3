"""The number of threads: one rule for every launcher, idle threads that sleep, and what the record says of both."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hydra_plugins.xp_executor_base import _machine
from hydra_plugins.xp_slurm_launcher import _guard as slurm_guard
from hydra_plugins.xp_slurm_launcher import _job as slurm_job
from hydra_plugins.xp_slurm_launcher import _job_specs as slurm_job_specs
from hydra_plugins.xp_ssh_launcher import _job_steps as ssh_work
from xp.errors import UserError
from xp.runs.execution import threads

OURS = {*threads.COUNTS, *threads.ASLEEP}


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    for name in (*OURS, "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


def of_slurm(monkeypatch, tmp_path, **around: str) -> dict[str, str]:
    """What a SLURM job's process has when its task begins."""
    for name, value in {"SLURM_CPUS_PER_TASK": "1", **around}.items():
        monkeypatch.setenv(name, value)
    seen: dict[str, str] = {}

    def noted(path):
        seen.update(os.environ)
        raise LookupError(path)

    for module in (slurm_job_specs, slurm_guard):  # asked for first once the threads are settled
        monkeypatch.setattr(module, "read_job_spec", noted)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(LookupError):
        slurm_job._run(tmp_path)
    return seen


@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "3"}])
def test_every_launcher_gives_a_job_the_threads_of_a_single_run(given, monkeypatch, tmp_path):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    single = dict(given)
    threads.settle(single)
    assert single["OMP_NUM_THREADS"] == given.get("OMP_NUM_THREADS", "4")
    settings = SimpleNamespace(env={}, threads=None)
    local = _machine.worker_environment(0, 8, [], None)
    ssh = ssh_work.environment(settings, tmp_path, tmp_path)  # type: ignore[arg-type]
    slurm = of_slurm(monkeypatch, tmp_path)
    for each in (local, ssh, slurm):
        assert {name: each[name] for name in OURS} == single


def test_what_the_user_chose_stands_and_what_a_launcher_was_told_stands_before_it():
    chosen = threads.environment(given={"OMP_NUM_THREADS": "2", "NPROC": "5", "OMP_WAIT_POLICY": "ACTIVE"})
    assert (chosen["OMP_NUM_THREADS"], chosen["MKL_NUM_THREADS"], chosen["NPROC"]) == ("2", "2", "5")
    assert chosen["OMP_WAIT_POLICY"] == "ACTIVE"
    told = threads.environment(3, {"OMP_NUM_THREADS": "2"})
    assert {told[name] for name in threads.COUNTS} == {"3"}
    assert threads.environment(given={"OMP_NUM_THREADS": "6,2"})["OMP_NUM_THREADS"] == "6"


@pytest.mark.parametrize("text", ["0", "-1", "many", "99999999", "2.5"])
def test_a_number_of_threads_that_is_none_is_refused_by_name(text):
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS={text} is not a number of threads. Type"):
        threads.environment(given={"OMP_NUM_THREADS": text})


def test_the_default_depends_on_nothing_but_the_rule(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(os, "getloadavg", lambda: (80.0, 80.0, 80.0))
    assert threads.environment() == {**dict.fromkeys(threads.COUNTS, "4"), **threads.ASLEEP}
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "threads: 4, on 64 cores; the machine is busy (load 80)" in threads.line()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, [2]),
        ({"cpu.max": "max 100000\n"}, []),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, [4]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        ({"cpu.max": "nonsense\n"}, []),
        ({}, []),
    ],
)
def test_cores_allotted_follow_the_control_group(files, quota, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads._quota(tmp_path) == quota


def test_cores_allotted_follow_slurm(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(threads, "_quota", list)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "12")
    assert threads.cores() == 12
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert threads.cores() == 3


def test_a_run_goes_on_with_the_threads_it_was_begun_with(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    for name in ("torch", "jax", "numpy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert threads.resume({"number": 7}) is None
    assert threads.facts().number == 7 and os.environ["NPROC"] == "7"
    warning = threads.resume({"number": 4})
    assert warning is not None and "begun with 4 threads and goes on with 7" in warning
    for unknown in (None, 4, {"number": "4; rm"}, {"number": -1}, {"number": 10**9}, {}):
        assert threads.resume(unknown) is None


def test_the_record_says_how_many_threads_and_the_log_says_it_in_a_line(monkeypatch, tmp_path):
    from omegaconf import OmegaConf

    from xp.runs import RunFolder, run_once

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    config = OmegaConf.create({"task": {"name": "x"}})
    run_once(config, tmp_path / "run", ["hydra.run.dir=x"], lambda run: None, result_config=lambda config: config)
    folder = RunFolder(tmp_path / "run")
    assert folder.record()["threads"]["number"] == 2
    assert folder.record()["threads"]["cores"] == threads.cores()
    assert "threads: 2, on " in (folder.path / "log.txt").read_text()


SPIN = """
import time
from xp.runs.execution import threads
threads.settle()
import torch
x = torch.ones(400, 400)
x @ x, torch.exp(x)
before = time.process_time()
for _ in range(40):
    torch.exp(x)
    time.sleep(0.02)
print(time.process_time() - before)
"""


def test_idle_threads_of_torch_sleep():
    place = {**{k: v for k, v in os.environ.items() if k not in OURS}, "OMP_NUM_THREADS": "2"}
    asleep = subprocess.run([sys.executable, "-c", SPIN], env=place, capture_output=True, text=True, check=True)
    assert float(asleep.stdout) < 0.3  # 40 pauses of 20 ms in which a spinning thread would take several ms each


def test_the_launchers_know_no_other_rule(checkout):
    for path in Path(checkout, "launchers").rglob("*.py"):
        assert "NUM_THREADS" not in path.read_text(), path
