"""What planning a sweep costs: CPU time and memory of 100, 1000 and 5000 jobs, beside Hydra's own sweeper.

    python benchmarks/plan.py [--jobs 100 1000 5000] [--hydra 100 1000 5000]

Both sides compose the same jobs of the same conf/ folder, a product of learning rates and seeds, and start none of
them. xp's side is `hydra.sweeper.dry_run=true`: compose, check, resolve, identity, name, a look into every folder, the
table. Hydra's is BasicSweeper with a launcher that does nothing: it composes each job, and that is all. CPU seconds
(user + system) of the whole command; memory is the peak of the process beyond that of the same command with one job.
Freezing (writing five small files into each of the folders, three of them flushed to disk) is measured apart, since
it is the disk that it costs.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

BARE = """
import hydra
from xp.config import resolvers  # conf/ uses its resolvers
from xp.runs.jobs import stage_references
resolvers.register()
stage_references.register()

@hydra.main(config_path={conf!r}, config_name="config", version_base="1.3")
def main(config):
    pass

main()
"""

IDLE = '''
from hydra.plugins.launcher import Launcher


class IdleLauncher(Launcher):
    """Takes composed jobs and starts none."""

    def setup(self, *, hydra_context, task_function, config):
        pass

    def launch(self, job_overrides, initial_job_idx):
        return []
'''

FREEZE = """
import sys, time
from hydra.types import RunMode
from hydra_plugins.xp_staged_sweeper._compose import Composer
from hydra_plugins.xp_staged_sweeper._experiment import plan_experiment, read_command_line
from hydra_plugins.xp_staged_sweeper._sweep import xp_rules
from xp.config import open_hydra
from xp.runs.jobs import stage_references
from hydra_plugins.xp_staged_sweeper._freezing import freeze_all

stage_references.register()
hydra = open_hydra()
master = hydra.compose_config("config", [], run_mode=RunMode.MULTIRUN, with_log_configuration=False)
composer = Composer(hydra.config_loader, master)
experiment = plan_experiment(composer, None, read_command_line(composer, sys.argv[1:])[1], xp_rules())
cpu, wall = time.process_time(), time.perf_counter()
freeze_all([planned.job for planned in experiment.jobs], "local")
print(time.process_time() - cpu, time.perf_counter() - wall)
"""


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    cpu_s: float
    peak_mb: float


def cost_of(command: list[str], folder: Path) -> Cost:
    """User and system time of a command, and its peak resident memory."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def jobs_of(number: int) -> list[str]:
    """Overrides that sweep `number` jobs: four learning rates times seeds."""
    if number == 1:
        return ["lr.peak=1e-4", "seed=0"]
    return ["lr.peak=1e-4,3e-4,1e-3,3e-3", f"seed=range(0,{number // 4})"]


def compare(folder: Path, sides: dict[str, list[str]], counts: dict[str, list[int]]) -> None:
    """Print a line for each side and number of jobs."""
    for name, command in sides.items():
        one = cost_of([*command, *jobs_of(1)], folder)
        print(f"{name:24} {1:5} job   {one.cpu_s:7.2f} CPU s                        {one.peak_mb:6.1f} MB peak")
        for number in counts[name]:
            cost = cost_of([*command, *jobs_of(number)], folder)
            each = 1e3 * cost.cpu_s / number
            print(
                f"{name:24} {number:5} jobs  {cost.cpu_s:7.2f} CPU s  {each:6.2f} ms a job, all counted"
                f"  {cost.peak_mb - one.peak_mb:6.1f} MB more",
                flush=True,
            )


def freezing(folder: Path, number: int) -> None:
    """Print what writing so many frozen jobs takes."""
    command = [sys.executable, "freeze.py", "data.root=.", *jobs_of(number), "paths.multirun=frozen"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    cpu, wall = map(float, done.stdout.split())
    files = [path for path in (folder / "frozen" / "sweep").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    print(
        f"freezing {number} jobs: {cpu:.1f} CPU s ({1e3 * cpu / number:.1f} ms a job), {wall:.1f} s, "
        f"{len(files)} files, {size / 1e6:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, nargs="*", default=[100, 1000, 5000])
    parser.add_argument("--hydra", type=int, nargs="*", default=[100, 1000, 5000], help="jobs that Hydra composes")
    parser.add_argument("--frozen", type=int, default=5000, help="jobs that are written to disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE.format(conf=str(ROOT / "conf")))
        (folder / "freeze.py").write_text(FREEZE)
        (folder / "hydra_plugins").mkdir()
        (folder / "hydra_plugins" / "idle_launcher.py").write_text(IDLE)
        idle = ["hydra/launcher=basic", "hydra.launcher._target_=hydra_plugins.idle_launcher.IdleLauncher"]
        sides = {
            "xp": [sys.executable, "-m", "xp", "-m", "data.root=.", "hydra.sweeper.dry_run=true"],
            "Hydra's BasicSweeper": [
                sys.executable, "bare.py", "-m", "data.root=.", "hydra/sweeper=basic", *idle,
            ],
        }  # fmt: skip
        load = os.getloadavg()[0]
        where = f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}"
        print(f"machine: {where}, load {load:.1f}")
        began = time.perf_counter()
        compare(folder, sides, {"xp": options.jobs, "Hydra's BasicSweeper": options.hydra})
        if options.frozen:
            freezing(folder, options.frozen)
        print(f"took {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
