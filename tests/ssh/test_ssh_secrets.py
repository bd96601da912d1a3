"""Secrets reach the jobs and no disk; a keeper that lost them says so and starts nothing until it has them again."""

import json
import os
import stat
from pathlib import Path

import pytest
from ssh_site import expected, wait_for
from test_ssh_commands import told

from hydra_plugins.xp_ssh_launcher._door import Door, deliver
from hydra_plugins.xp_ssh_launcher._keeper import Keeper
from hydra_plugins.xp_ssh_launcher._keeper_store import KeeperStore
from hydra_plugins.xp_ssh_launcher._settings import settings_of
from xp.runs.jobs.secrets import REDACTED

SECRET = "planted-4711-0815"


def holding(place: Path, text: str = SECRET) -> list[Path]:
    """Files below a folder that hold a text."""
    files = (path for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if text.encode() in path.read_bytes()]


@pytest.mark.timeout(300)
def test_a_secret_of_the_jobs_environment_is_on_no_disk_and_a_keeper_without_it_says_so(site, pair):
    gate = pair["node1"].home / "gate"
    gate.write_text("")
    command = ["seed=1,2", "work.hold=gate", f"+hydra.launcher.env.WANDB_API_KEY={SECRET}",
               f"+hydra.launcher.env.OTHER='--password={SECRET}'"]  # fmt: skip
    code, output = site.run(*command, hosts=("node1",))
    assert code == 0, output
    wait_for(lambda: pair["node1"].jobs(), "a job at work")
    (pid,) = pair["node1"].jobs()
    assert f"WANDB_API_KEY={SECRET}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    store = site.store("sweep")
    assert stat.S_IMODE((store.folder / "queue.json").stat().st_mode) == 0o600
    site.kill_keeper()
    waiting = next(name for name, state in site.states().items() if state == "waiting")
    first = next(name for name in site.states() if name != waiting)
    told(site, "task=cancel", f"cancel.folder={site.folder}/multirun/sweep/{first}")  # starts a keeper from the papers
    wait_for(lambda: site.states()[first] == "interrupted", "the end of the job that was cancelled")
    status = told(site, "task=status")
    assert "no job is started without hydra.launcher.env." in status and "WANDB_API_KEY" in status
    assert site.states()[waiting] == "waiting" and not pair["node1"].jobs()
    gate.unlink()
    code, output = site.run(*command, "hydra.launcher.detach=false", hosts=("node1",))
    assert code == 0, output + site.log()
    assert site.results() == {f"seed_{seed}": expected(seed, 3) for seed in (1, 2)}
    assert json.loads((site.job(waiting).path / "summary.json").read_text())["key"] == SECRET[:3]
    assert holding(site.folder) == [] and [f for box in pair.boxes for f in holding(box.folder)] == []


def test_what_a_keeper_finds_is_without_secrets_and_says_which_are_missing(tmp_path):
    store = KeeperStore(tmp_path / "exp")
    given = settings_of(hosts=["a"], env={"MY_TOKEN": SECRET, "PLAIN": "x"}, setup=[f"login --token={SECRET}"])
    store.write_queue(given, [])
    store.request(do="nothing")
    assert holding(tmp_path) == []
    found, missing = store.settings({})
    assert missing == ["setup.0", "env.MY_TOKEN"] or set(missing) == {"setup.0", "env.MY_TOKEN"}
    assert dict(found.env) == {"PLAIN": "x"}
    found, missing = store.settings({"env.MY_TOKEN": SECRET, "setup.0": given.setup[0]})
    assert missing == [] and found == given
    for path in (store.folder / "queue.json", *(store.folder / "requests").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_come_to_a_keeper_at_work_by_its_door(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = KeeperStore(tmp_path / "exp")
    store.write_queue(settings_of(hosts=["a"], env={"MY_TOKEN": SECRET}), [])
    keeper = Keeper(store, {})
    keeper.assignments.save()
    state = store.state()
    assert keeper.assignments.missing == ["env.MY_TOKEN"] == state["missing"] and "MY_TOKEN" in state["trouble"][0]
    assert stat.S_IMODE(Path(state["door"]).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(state["door"]).parent.stat().st_mode) == 0o700
    assert deliver(state["door"], {"settings": {"env.MY_TOKEN": SECRET}, "env": {}, "jobs": {}})
    assert (
        keeper.assignments.missing == []
        and keeper.assignments.settings.env["MY_TOKEN"] == SECRET
        and store.state()["trouble"] == []
    )
    assert keeper.assignments.clean(f"login --token={SECRET} failed") == f"login --token={REDACTED} failed"
    keeper.assignments._door.close()
    assert not deliver(state["door"], {}) and holding(tmp_path) == []


def test_an_experiment_on_a_disk_without_locks_or_with_a_stuck_controller_is_refused_by_name(tmp_path, monkeypatch):
    import errno
    import fcntl

    from hydra_plugins.xp_ssh_launcher import _keeper_store
    from xp.errors import UserError

    store = KeeperStore(tmp_path / "exp")
    monkeypatch.setattr(_keeper_store, "HANDING_S", 0.1)
    store.folder.mkdir(parents=True)
    with (store.folder / "submit.lock").open("w") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another xp has been handing jobs over"), store.submission_lock():
            raise AssertionError("nobody may hand over")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_keeper_store.fcntl, "flock", refuse)
    with pytest.raises(UserError, match="file system without locks.*hydra.sweep.dir="):
        store.acquire_keeper_lock()
    assert store.attended


def test_a_door_hears_no_nonsense_and_stays_open(tmp_path):
    import socket

    heard = []
    door = Door(heard.append)
    try:
        for nonsense in (b"", b"{", b"\xff" * 100):
            with socket.socket(socket.AF_UNIX) as way:
                way.connect(door.place)
                way.sendall(nonsense)
                way.shutdown(socket.SHUT_WR)
                assert way.recv(16) == b""
        assert deliver(door.place, {"env": {}}) and heard == [{"env": {}}]
    finally:
        door.close()
    assert not os.path.exists(os.path.dirname(door.place))
