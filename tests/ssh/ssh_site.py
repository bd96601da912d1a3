"""A working folder whose nodes share no file with it, the program in it, and what it leaves behind."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ssh_nodes import Nodes

from hydra_plugins.xp_ssh_launcher._keeper_store import KeeperStore
from xp.runs import RunFolder

HERE = Path(__file__).resolve().parent
APP = HERE / "app"
ALONE = "sweep"
"""Name of the one job of a call that sweeps nothing."""
PATIENCE_S = 120
"""Longest wait for a state: generous, since the machine may be busy with other things."""


def wait_for(condition, what="it", patience_s: float | None = None):
    limit = time.monotonic() + (patience_s or PATIENCE_S)
    while not condition():
        assert time.monotonic() < limit, f"{what} did not come about"
        time.sleep(0.02)


def at_work(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Site:
    """A working folder that the nodes do not share, the program in it, and what it leaves behind."""

    def __init__(self, folder: Path, nodes: Nodes):
        self.folder, self.nodes, self.env = folder, nodes, dict(os.environ)
        folder.mkdir(parents=True)

    def settings(self, *hosts: str) -> list[str]:
        quick = [
            "min_free_gb=0.0001",
            "sync_every_s=0.3",
            f"python={sys.executable}",
            f"ssh_config={self.nodes.config}",
        ]
        names = hosts or [box.name for box in self.nodes.boxes]
        given = [f"hydra.launcher.{each}" for each in (*quick, f"hosts=[{','.join(names)}]")]
        return [*given, f"+hydra.launcher.env.PYTHONPATH={APP}"]

    def start(
        self, *overrides: str, hosts: tuple[str, ...] = (), env: dict[str, str] | None = None, app: Path = APP
    ) -> subprocess.Popen:
        """The program in a process of its own; it leaves once the jobs are handed over."""
        command = [sys.executable, str(app / "ssh_app.py"), *self.settings(*hosts), *overrides]
        return subprocess.Popen(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, env={**os.environ, **(env or {})},
        )  # fmt: skip

    def run(self, *overrides: str, patience_s: float | None = None, **options) -> tuple[int, str]:
        """The program to its end: exit code and output."""
        process = self.start(*overrides, **options)
        output = process.communicate(timeout=patience_s or PATIENCE_S)[0]
        return process.returncode, output

    def store(self, experiment: str = "chain") -> KeeperStore:
        return KeeperStore(self.folder / "multirun" / experiment)

    def job(self, name: str, experiment: str = "sweep") -> RunFolder:
        return RunFolder(self.folder / "multirun" / experiment / name)

    def log(self, experiment: str = "sweep") -> str:
        return self.store(experiment).log.read_text()

    def keeper(self, experiment: str = "sweep") -> int:
        return self.store(experiment).state()["pid"]

    def kill_keeper(self, experiment: str = "sweep") -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.keeper(experiment), signal.SIGKILL)
        wait_for(lambda: not self.store(experiment).attended, "the keeper's end")

    def wait_until_over(self, experiment: str = "sweep", patience_s: float | None = None) -> None:
        """Until the keeper has ended by itself."""
        store = self.store(experiment)
        wait_for(lambda: store.state().get("jobs"), "the keeper's first word", patience_s)
        wait_for(lambda: not store.attended, "the keeper's leave", patience_s)
        wait_for(lambda: not at_work(store.state()["pid"]), "the keeper's end", patience_s)

    def states(self, experiment: str = "sweep") -> dict[str, str]:
        return {Path(folder).name: entry["state"] for folder, entry in self.store(experiment).state()["jobs"].items()}

    def results(self, experiment: str = "sweep") -> dict[str, str]:
        """{job: its result} of every finished job."""
        found = sorted((self.folder / "multirun" / experiment).glob("*/final/value.txt"))
        return {path.parents[1].name: path.read_text() for path in found}

    def close(self) -> None:
        """No keeper outlives its test."""
        for experiment in (self.folder / "multirun").glob("*"):
            store = KeeperStore(experiment)
            if store.folder.is_dir() and store.attended:
                self.kill_keeper(experiment.name)


def expected(seed: int, steps: int, before: str = "", horizon: str = "None") -> str:
    """The result of a job, computed here."""
    value = hashlib.sha256(f"{before} {seed} {horizon}".encode()).hexdigest()
    for step in range(1, steps + 1):
        value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
    return value
