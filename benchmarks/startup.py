"""What xp adds to Hydra: CPU time of starting, and of each job of a sweep, side by side in pairs.

    python benchmarks/startup.py

Both sides compose the same conf/ folder. A bare Hydra app is `@hydra.main` around a function that does nothing, swept
by Hydra's own BasicSweeper and BasicLauncher; xp's side is the staged sweeper and one warm worker running a task that
does nothing, records, locks, logs and frozen jobs included. Starting is `import xp` against `import hydra`, and
`--cfg job` and `--help` of both apps. CPU seconds (user + system, children included) rather than
wall time, since other work on the machine disturbs them less. The cost of one job is the slope between a short and a
long sweep, so start-up cancels out. `--start` leaves the sweeps out.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SHORT, LONG = 4, 44

BARE = """
import hydra
from xp.config import resolvers  # conf/ uses its resolvers
resolvers.register()

@hydra.main(config_path={conf!r}, config_name="config", version_base="1.3")
def main(config):
    pass

main()
"""

NOTHING = '''
def run(run):
    """A task that does nothing."""
'''


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system time of a command and of its children."""
    before = os.times()
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def pairs(one, other, repeats: int) -> tuple[float, float, float]:
    """Median seconds of both sides and the median of the ratios of neighbouring runs."""
    one(), other()  # compiles bytecode, warms the disk cache
    measured = [(one(), other()) for _ in range(repeats)]
    return median(a for a, _ in measured), median(b for _, b in measured), median(a / b for a, b in measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--start", action="store_true", help="starting alone, without the sweeps")
    given = parser.parse_args()
    repeats = given.repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE.format(conf=str(ROOT / "conf")))
        (folder / "nothing.py").write_text(NOTHING)
        (folder / "data").mkdir()  # every job notes what lies in it
        bare, xp = [sys.executable, "bare.py"], [sys.executable, "-m", "xp"]
        stock = ["hydra/sweeper=basic", "hydra/launcher=basic", "-m"]
        warm = ["hydra.launcher.n_jobs=1", "+hydra.launcher.target=nothing:run", "-m"]
        counter = iter(range(10**6))

        def run(*command):
            return lambda: cpu_seconds(list(command), folder)

        def per_job(command, options, where):
            def sweep(number: int) -> float:
                place = where.format(next(counter))
                return cpu_seconds([*command, f"seed=range(0,{number})", "data.root=data", place, *options], folder)

            return lambda: (sweep(LONG) - sweep(SHORT)) / (LONG - SHORT)

        print(f"machine: {os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}")
        starts = {
            "import": ([sys.executable, "-c", "import xp"], [sys.executable, "-c", "import hydra"]),
            "--cfg job": ([*xp, "--cfg", "job"], [*bare, "--cfg", "job"]),
            "--help": ([*xp, "--help"], [*bare, "--help"]),
        }
        for what, (one, other) in starts.items():
            ours, theirs, ratio = pairs(run(*one), run(*other), repeats)
            print(f"{what:25} {ours * 1e3:7.0f} ms CPU | bare Hydra       {theirs * 1e3:7.0f} ms CPU | "
                  f"ratio {ratio:.2f} (wanted: below 1.5)", flush=True)  # fmt: skip
        if given.start:
            return
        ours, theirs, ratio = pairs(
            per_job(xp, warm, "paths.multirun=xp{}"), per_job(bare, stock, "hydra.sweep.dir=bare{}"), repeats
        )
        print(f"one job of a sweep, warm  {ours * 1e3:7.1f} ms CPU | BasicLauncher    {theirs * 1e3:7.1f} ms CPU | "
              f"ratio {ratio:.2f} (wanted: below 0.5)")  # fmt: skip


if __name__ == "__main__":
    main()
