"""The disk of the machine that drives the nodes is full: no node is blamed, nothing ends, and it goes on by itself."""

import errno
import subprocess

import pytest
from ssh_nodes import Nodes
from ssh_site import Site, expected, wait_for
from test_ssh_commands import told
from test_ssh_faults import hold

from hydra_plugins.xp_ssh_launcher import _keeper_store
from hydra_plugins.xp_ssh_launcher._keeper import Keeper
from hydra_plugins.xp_ssh_launcher._keeper_store import KeeperStore
from hydra_plugins.xp_ssh_launcher._settings import settings_of
from hydra_plugins.xp_ssh_launcher._ssh_errors import HereFull
from xp.atomic import write_json
from xp.runs.executors.protocol import Submission


@pytest.fixture
def small(tmp_path_factory, request):
    """A site whose working folder, here, is a disk of 40 MB."""
    ground = tmp_path_factory.mktemp("small") / "ground"
    ground.mkdir()
    nodes = None
    try:
        nodes = Nodes(tmp_path_factory.mktemp("nodes"), ground)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(ground)], check=True)
        made = Site(ground / "work", nodes)
        yield made
        made.close()
    finally:
        if nodes is not None:
            nodes.close()
        subprocess.run(["umount", "-l", str(ground)], capture_output=True)


def fill(path) -> None:
    with path.open("wb", buffering=0) as handle:
        try:
            while True:
                handle.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_here_is_said_and_jobs_go_on_when_there_is_room(small):
    gates = [hold(box) for box in small.nodes.boxes]
    code, output = small.run("seed=1,2,3", "work.hold=gate", "work.steps=4", "work.blob_kb=600")
    assert code == 0, output
    wait_for(lambda: sum(len(box.jobs()) for box in small.nodes.boxes) == 2, "two jobs at work")
    wait_for(lambda: list(small.folder.glob("multirun/sweep/*/checkpoints/*")), "the first checkpoint")
    fill(small.folder / "filler")
    for gate in gates:
        gate.unlink()
    wait_for(lambda: small.store("sweep").said(), "the reason")
    keeper = small.keeper()
    status = told(small, "task=status", "status.live=false")
    assert "the disk of this machine is full" in status.split("seed_3")[0], status
    assert "node1: full" not in status and "refused" not in status and small.store("sweep").attended
    (small.folder / "filler").unlink()
    small.wait_until_over()
    assert small.keeper() == keeper and small.store("sweep").said() == ""
    assert small.results() == {f"seed_{seed}": expected(seed, 4) for seed in (1, 2, 3)}
    assert [small.job(f"seed_{seed}").record()["attempts"] for seed in (1, 2, 3)] == [1, 1, 1]
    assert "Traceback" not in small.log()


def test_a_keeper_that_has_left_writes_no_more_over_what_the_next_one_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, later = KeeperStore(tmp_path / "exp"), KeeperStore(tmp_path / "exp")
    store.write_queue(settings_of(hosts=["a"]), [])
    assert store.acquire_keeper_lock() is not None and later.acquire_keeper_lock() is None
    keeper = Keeper(store, {})
    assert not keeper._over()  # its host was not met yet
    keeper._meeting_until = 0.0
    assert keeper._over() and store.state()["jobs"] == {}
    assert later.acquire_keeper_lock() is not None  # before the first has closed its channels, which may take a second
    folder = tmp_path / "exp/job"
    write_json(folder / "job.json", {"task": "train"})
    later.write_queue(settings_of(hosts=["a"]), [Submission(folder=folder)])
    successor = Keeper(later, {})
    successor.assignments.save()
    keeper.assignments.note("a last line")
    keeper.assignments.close()
    assert str(folder) in later.state()["jobs"]
    successor.assignments.close()
    later.leave()


def test_a_keeper_that_cannot_write_leases_nothing_and_survives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "exp/job"
    write_json(folder / "job.json", {"task": "train"})
    store = KeeperStore(tmp_path / "exp")
    store.write_queue(settings_of(hosts=["a"]), [Submission(folder=folder)])
    keeper = Keeper(store, {})
    store.reserve()
    node = keeper.nodes[0]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "state.json")

    with monkeypatch.context() as patch:
        patch.setattr(_keeper_store, "write_json", full)
        for _ in range(5):
            assert keeper.assignments.take(node.capacity, 1) is None
        keeper._round()
        assert (
            "the disk of this machine is full (state.json)" in store.said()
            and keeper.assignments.lease_queue.leases == {}
        )
    assert keeper.assignments.take(node.capacity, 1) is None  # nothing is leased until something could be written
    keeper._round()
    assert store.said() == "" and keeper.assignments.take(node.capacity, 1) == (folder, 1)
    keeper.assignments._door.close()
    assert "the disk of this machine is full" in str(HereFull("/x"))
