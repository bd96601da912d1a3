"""xp beside an installed package that it has never seen: the wheel of xp_toys, unpacked into a folder on PYTHONPATH."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DISTRIBUTION = HERE / "xp_toys"
SOURCE = DISTRIBUTION / "src"

EPISODES = """
import json, sys
from pathlib import Path
import numpy as np
from xp_toys.toy_reach.suite import ReachSuite

root, count, steps = Path(sys.argv[1]), int(sys.argv[2]), 8
root.mkdir()
suite = ReachSuite()
env = suite.make("reach", cameras={"above": (32, 32)})
expert = suite.expert(env)
for number in range(count):
    seen, rows = env.reset(1000 + number), {"action": [], "state": [], "images.above": []}
    expert.reset(number)
    for _ in range(steps):
        rows["action"].append(expert.act())
        rows["state"].append(seen["observation.state"])
        rows["images.above"].append(seen["observation.images.above"])
        seen = env.step(rows["action"][-1]).observation
    np.savez_compressed(root / f"episode_{number}.npz", **{name: np.stack(each) for name, each in rows.items()})
notes = {"fps": 10, "tasks": ["go to the red square"], "cameras": {"above": {"size": [32, 32]}},
         "action_dim": 2, "state_dim": 2, "episodes": [0] * count}
(root / "toy.json").write_text(json.dumps(notes))
"""
"""Demonstrations of the toy suite, recorded in the toy format by a script as a stranger has one."""


def install(folder: Path) -> Path:
    """Build the wheel and unpack it; the folder that goes on PYTHONPATH."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheel")]
    subprocess.run(build, cwd=DISTRIBUTION, check=True, capture_output=True, timeout=120)
    (wheel,) = (folder / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


class Outside:
    """Runs xp in a folder, beside the installed package; every output is free of tracebacks."""

    def __init__(self, cwd: Path, site: Path, cache: Path):
        self.cwd, self.site, self.cache = cwd, site, cache

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.site), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return {**os.environ, **own}

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "xp",
            *arguments,
            *([] if "--help" in arguments else [f"paths.cache={self.cache}"]),
        ]

    def __call__(self, *arguments: str, code: int = 0, timeout: float = 500) -> str:
        """Run to the end, assert the exit code; what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.cwd, capture_output=True, text=True, timeout=timeout, env=self.environment(),
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == code and "Traceback" not in said, f"exit {done.returncode}\n{said[-5000:]}"
        return said

    def refused(self, *arguments: str) -> str:
        """Assert that it ends with one message of a user's mistake; that message, its lines joined."""
        said = self(*arguments, code=2)
        lines = [line for line in said.splitlines() if not line.startswith(("threads:", "data:"))]
        assert sum(line.startswith("xp: ") for line in lines) == 1, said
        return " ".join(said[said.index("xp: ") :].split())

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=self.environment(),
        )  # fmt: skip

    def python(self, code: str, *arguments: str) -> str:
        """Run a script beside the package; what it printed."""
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=self.cwd, capture_output=True, text=True, env=self.environment(), check=True)
        return done.stdout
