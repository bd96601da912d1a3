"""What a job costs through `hydra/launcher=slurm` beyond SLURM itself, how soon a killed one is noticed, and how long
handing in the main job takes.

    .venv/bin/python benchmarks/launch.py [--jobs 5]

Brings up a real SLURM of two nodes on this machine (root; Debian: slurm-wlm munge), without accounting. A trivial job
goes through freeze, sbatch and its own record; beside it, in turn, `srun true` and `srun python -c pass`.
(benchmarks/launch_ssh.py measures hydra/launcher=ssh.)
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "launchers"), str(ROOT / "tests" / "launchers" / "app")]

from slurm_cluster import Cluster, lacking, wait_for  # noqa: E402

from xp.runs import RunFolder, State, start_run  # noqa: E402
from xp.runs.executors.protocol import Executor, JobState, Submission, executor_named  # noqa: E402
from xp.runs.records.folder import as_config  # noqa: E402

WORK = {"steps": 3, "fail": False, "crash": False, "wait_for": None, "hoard_mb": 0}


def frozen(folder: Path, **work: object) -> Path:
    """A made-up job, frozen in its folder."""
    config = {"seed": 0, "horizon": {"train": 1}, "lr": {"peak": 0.1}, "work": {**WORK, **work}}
    start_run(as_config(config), folder, generated=False, result_config=lambda config: config)
    return folder


def took(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


def through(executor: Executor, folder: Path) -> float:
    """Seconds from the call of submit to a record that says done."""
    began = time.monotonic()
    executor.submit([Submission(folder=folder)])
    wait_for(lambda: RunFolder(folder).record().state is State.DONE, every_s=0.01)
    return time.monotonic() - began


def notice(executor: Executor, folder: Path) -> float:
    """Seconds from kill -9 of a job's process to the executor's word that it failed."""
    handle = executor.submit([Submission(folder=folder)])[0]
    wait_for(lambda: (folder / "state").exists() and (folder / "state").read_text() == "2")
    began = time.monotonic()
    os.kill(RunFolder(folder).record()["pid"], signal.SIGKILL)
    while executor.poll(0.25)[handle] is not JobState.FAILED:
        pass
    return time.monotonic() - began


def hand_in(folder: Path) -> tuple[float, float]:
    """Seconds from the start of `xp +experiment=multi_horizon` to its plan, and to the prompt; the jobs are held."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-u", "-m", "xp", "+experiment=multi_horizon", "-m", "hydra/launcher=slurm"]
    began, plan = time.monotonic(), 0.0
    process = subprocess.Popen(
        [*command, "debug=fast", "+hydra.launcher.extra.hold=true"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("18 jobs: "):
            plan = time.monotonic() - began
    if process.wait() or not plan:
        sys.exit("multi_horizon was not handed in")
    whole = time.monotonic() - began
    subprocess.run(["scancel", "--user=root"], check=True)
    return plan, whole


def show(name: str, seconds: list[float]) -> None:
    spread = f"least {min(seconds):6.2f}   most {max(seconds):6.2f}   n {len(seconds)}"
    print(f"{name:<44} median {median(seconds):6.2f} s   {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5)
    number = parser.parse_args().jobs
    if lacking():
        sys.exit(f"No SLURM can be brought up here: {lacking()}")
    with tempfile.TemporaryDirectory(prefix="xp-launch-") as place:
        cluster = Cluster(Path(place) / "slurm")
        os.environ |= {"SLURM_CONF": str(cluster.conf), "PYTHONPATH": sys.path[1]}
        cluster.up()
        try:
            measure(Path(place) / "multirun" / "bench", number)
        finally:
            cluster.down()


def measure(folder: Path, number: int) -> None:
    bare, python, ours, noticed = [], [], [], []
    through(executor_named("slurm", target="fake_tasks:run"), frozen(folder / "warm"))
    for each in range(number):
        bare.append(took(["srun", "-Q", "true"]))
        python.append(took(["srun", "-Q", sys.executable, "-c", "pass"]))
        ours.append(through(executor_named("slurm", target="fake_tasks:run"), frozen(folder / f"trivial{each}")))
    for each in range(max(2, number // 2)):
        executor = executor_named("slurm", target="fake_tasks:run", retries=0)
        noticed.append(notice(executor, frozen(folder / f"killed{each}", wait_for="/nowhere")))
    show("srun true", bare)
    show("srun python -c pass", python)
    show("a trivial job through hydra/launcher=slurm", ours)
    show("kill -9 noticed without accounting", noticed)
    plans, wholes = zip(*(hand_in(folder.parent.parent / f"main{each}") for each in range(number)))
    show("multi_horizon: to the plan of its 18 jobs", list(plans))
    show("multi_horizon: to the prompt, all handed in", list(wholes))
    more = [ours_ - bare_ for ours_, bare_ in zip(ours, bare)]
    print(f"more than srun's own: median {median(more):.2f} s, least {min(more):.2f} s; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
