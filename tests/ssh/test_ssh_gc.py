"""What lies on nodes after an experiment, what a stranger sees of an unattended one, and secrets on the way."""

import subprocess
import sys
from pathlib import Path

import pytest
from ssh_nodes import PORT
from ssh_site import expected, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def xp(site, *overrides: str) -> str:
    """`xp ...` in the site's folder; lines as wide as they come."""
    command = [sys.executable, "-m", "xp", *overrides]
    done = subprocess.run(command, cwd=site.folder, capture_output=True, text=True, env={**site.env, "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_unattended_experiment_is_shown_with_the_command_and_what_is_not_finished_is_not_removed(site, pair):
    gates = [box.home / "gate" for box in pair.boxes]
    for gate in gates:
        gate.write_text("")
    command = ["seed=1,2", "work.hold=gate", f"start_from={data(site)}"]
    site.run(*command, env={"WANDB_API_KEY": "sec-ret-42"})
    wait_for(lambda: sum(len(box.jobs()) for box in pair.boxes) == 2, "both jobs at work")
    for box in pair.boxes:
        for pid in box.jobs():
            assert b"sec-ret-42" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"WANDB_API_KEY=sec-ret-42" in Path(f"/proc/{pid}/environ").read_bytes()
    assert "is unattended" not in xp(site, "task=status")
    site.kill_keeper()
    status = xp(site, "task=status")
    assert "is unattended" in status and "hydra.launcher.ssh_config=" in status and "work.hold=gate" in status
    before = xp(site, "task=gc", "gc.remove=true")
    assert "at work" in before and "0.00 MB removed" in before
    for gate in gates:
        gate.unlink()
    code, output = site.run(*command, "hydra.launcher.detach=false")
    assert code == 0, output
    assert set(site.results().values()) == {expected(seed, 3, "from here") for seed in (1, 2)}
    copies = [box.place / site.folder.name for box in pair.boxes]
    assert all((copy / "multirun/sweep").is_dir() and (copy / "data/final/value.txt").is_file() for copy in copies)
    listed = xp(site, "task=gc")
    assert "finished: its results are here" in listed and "data that was sent" in listed and "gc.remove=true" in listed
    assert all((copy / "multirun/sweep").is_dir() for copy in copies)
    assert "removed from 2 hosts" in xp(site, "task=gc", "gc.remove=true")
    assert not any((copy / "multirun/sweep").exists() for copy in copies)
    assert all((copy / "data").is_dir() for copy in copies) and len(site.results()) == 2
    for box in pair.boxes:  # as environment=uv leaves it
        (box.home / ".xp/venv/bin").mkdir(parents=True, exist_ok=True)
        (box.home / ".xp/venv/bin/python").write_bytes(b"x" * 30_000)
    listed = xp(site, "task=gc")
    assert listed.count("the jobs' environment") == 2 and "gc.remove=true" not in listed
    assert "0.06 MB removed from 2 hosts" in xp(site, "task=gc", "gc.remove=true", "gc.data=true")
    assert not any((copy / "data").exists() for copy in copies) and data(site).is_dir()
    assert not any((box.home / ".xp/venv").exists() for box in pair.boxes)
    listed = xp(site, "task=gc")
    assert "Nothing lies on other machines." in listed, listed
    for place in (site.folder, *(box.home for box in pair.boxes)):
        found = subprocess.run(["grep", "-rl", "--exclude-dir=.pyenv", "sec-ret-42", str(place)], capture_output=True)
        assert found.stdout == b""


def test_a_machine_under_two_names_is_cleared_once_and_a_host_that_is_gone_is_one_line(site, pair):
    one = pair["node1"]
    twin = f"{{host: {one.address}, user: root, port: {PORT}, identity: {pair.key}, name: twin}}"
    gone = f"{{host: {one.address}, user: root, port: 2299, name: gone}}"
    code, output = site.run("seed=1,2", "hydra.launcher.detach=false", hosts=("node1", twin, gone))
    assert code == 0, output
    (one.home / ".xp/venv").mkdir(parents=True)
    (one.home / ".xp/venv/python").write_bytes(b"x" * 30_000)
    listed = xp(site, "task=gc").splitlines()
    assert sum(line.startswith("gone: nothing listens at") for line in listed) == 1
    assert "MB removed from 2 hosts" in xp(site, "task=gc", "gc.remove=true", "gc.data=true")
    assert not (one.home / ".xp/venv").exists() and len(site.results()) == 2


def data(site):
    folder = site.folder / "data"
    (folder / "final").mkdir(parents=True, exist_ok=True)
    if not (folder / "final/value.txt").exists():
        (folder / "final/value.txt").write_text("from here")
    return folder
