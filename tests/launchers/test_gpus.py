"""GPUs: which may be used, whether somebody uses them, and locks that all accounts see. nvidia-smi is a script here."""

import json
import os
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from hydra_plugins.xp_executor_base import _gpus
from hydra_plugins.xp_executor_base._gpus import Device
from hydra_plugins.xp_local_launcher import _seats
from hydra_plugins.xp_local_launcher.executor import LocalExecutor
from hydra_plugins.xp_ssh_launcher._agent import Agent
from hydra_plugins.xp_ssh_launcher._agent_files import RequestRefused
from xp.runs.executors.protocol import Submission

LIST = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb2222-0000-0000-0000-000000000000)
  MIG 1g.10gb     Device  0: (UUID: MIG-cccc3333-0000-0000-0000-000000000000)
  MIG 1g.10gb     Device  1: (UUID: MIG-dddd4444-0000-0000-0000-000000000000)
GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb5555-0000-0000-0000-000000000000)
"""
FAKE = """#!/bin/sh
here=$(dirname "$0")
case "$1" in
  --list-gpus) cat "$here/list";;
  --query-gpu=*) cat "$here/memory";;
  --query-compute-apps=*) cat "$here/processes";;
  *) exit 2;;
esac
"""
UUIDS = [f"GPU-{os.getpid()}-{number}" for number in range(2)]


class Fake:
    """A machine with two GPUs."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder = folder
        (folder / "nvidia-smi").write_text(FAKE)
        (folder / "nvidia-smi").chmod(0o755)
        (folder / "list").write_text("".join(f"GPU {n}: Made up (UUID: {uuid})\n" for n, uuid in enumerate(UUIDS)))
        self.use(0, 0)

    def use(self, *mb: int) -> None:
        """Memory that a process of somebody else holds on each."""
        rows = [f"{n}, {uuid}, {used + 5}, 24000\n" for n, (uuid, used) in enumerate(zip(UUIDS, mb))]
        (self.folder / "memory").write_text("".join(rows))
        rows = [f"{uuid}, {os.getpid()}, {used}, /usr/bin/python3 train.py\n" for uuid, used in zip(UUIDS, mb) if used]
        (self.folder / "processes").write_text("".join(rows))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o1777)
    monkeypatch.setattr(_gpus, "LOCK_PLACES", (str(place),))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Fake(tmp_path / "bin")


C, D = "MIG-cccc3333-0000-0000-0000-000000000000", "MIG-dddd4444-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ["0", C, D, "2"]),
        ("2,0", ["2", "0"]),
        (" 0 , 2 ", ["0", "2"]),
        ("1", [C]),
        ("", []),
        ("-1", []),
        ("0,-1,2", ["0"]),
        ("NoDevFiles", []),
        ("0,0", ["0"]),
        ("GPU-aaaa", ["GPU-aaaa"]),
        (f"{D},GPU-bbbb5", [D, "GPU-bbbb5"]),
        ("7", ["7"]),
    ],
)
def test_the_machines_own_cuda_visible_devices_is_honoured(given, names):
    found = _gpus.visible(_gpus.parse_list(LIST.splitlines()), given)
    assert [each.name for each in found] == names
    assert all(each.uuid for each in found if each.name != "7")


@pytest.mark.parametrize(
    ("memory", "processes", "words"),
    [
        ("0, GPU-a, 20480, 24576", "GPU-a, 1, 20000, python", "GPU 0: 20.0 of 24.0 GB in use by process 1 (python)"),
        ("0, GPU-a, 20480, 24576", "", "in use by somebody"),
        ("0, GPU-a, 600, 24576", "GPU-a, 1, 590, a,b python", "process 1 (a"),
        ("0, GPU-a, 600, 24576", "GPU-a, 1, [N/A], python", "process 1 (python)"),
        ("0, GPU-a, 600, 24576", "GPU-a, 1, 30, nvidia-cuda-mps-server", ""),
        ("0, GPU-a, 600, 24576", "GPU-other, 1, 9000, python", ""),
        ("0, GPU-a, 600, 24576", "No running processes found", ""),
        ("0, GPU-a, [N/A], [N/A]", "", ""),
        ("NVIDIA-SMI has failed", "garbage,\x00,\n,,", ""),
        ("", "", ""),
    ],
)
def test_a_gpu_that_somebody_uses_counts_as_taken_and_what_nobody_can_tell_does_not(fake, memory, processes, words):
    (fake.folder / "memory").write_text(memory + "\n")
    (fake.folder / "processes").write_text(processes + "\n")
    found = _gpus.in_use(Device("0", "GPU-a"), _gpus.usage())
    assert words in found and bool(found) == bool(words)
    assert _gpus.in_use(Device("0", "GPU-a"), _gpus.usage(), 1.0) == ""


def test_without_nvidia_smi_or_with_one_that_fails_there_is_nothing_to_see(fake):
    (fake.folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert _gpus.devices() == [] and _gpus.usage() == ({}, {})
    assert _gpus.devices({"PATH": "/nowhere"}) == []


def test_a_gpu_has_one_holder_on_the_machine_and_is_free_again_when_the_last_process_ended(fake):
    held, _ = _gpus.take(_gpus.devices(), 1)
    (descriptor,) = held.values()
    child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    os.close(descriptor)
    try:
        second, lines = _gpus.take(_gpus.devices(), 2)
        assert second == {} and lines == ["GPU 0: another job of xp has it"]
    finally:
        child.kill(), child.wait()
    both, _ = _gpus.take(_gpus.devices(), 2)
    assert [device.name for device in both] == ["0", "1"]
    for each in both.values():
        os.close(each)


@pytest.fixture
def open_to_all():
    """A folder that every account reaches; pytest's own are for this one alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.parametrize("first", [0, 65534])
def test_another_account_sees_the_lock(fake, open_to_all, monkeypatch, first):
    """Whoever made the file: the other opens it as it is. (Without root both are this account.)"""
    device, answer, place = Device("0", UUIDS[0]), open_to_all / "answer", open_to_all / "locks"
    answer.touch(), answer.chmod(0o666)
    place.mkdir(), place.chmod(0o1777)
    monkeypatch.setattr(_gpus, "LOCK_PLACES", (str(place),))

    def as_user(user: int, work) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.setgid(user), os.setuid(user)
                work()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    as_user(first, lambda: _gpus.lock(device))  # makes the file
    descriptor, why = _gpus.lock(device)
    assert descriptor is not None, why
    as_user(65534, lambda: answer.write_text(_gpus.lock(device)[1]))
    assert answer.read_text() == "GPU 0: another job of xp has it"
    os.close(descriptor)


@pytest.mark.parametrize("what", ["link", "dangling", "fifo", "folder"])
def test_what_somebody_else_put_in_the_locks_place_is_neither_followed_nor_waited_for(fake, tmp_path, what):
    path, victim = Path(_gpus.lock_folder()) / f"xp-gpu-{UUIDS[0]}.lock", tmp_path / "victim"
    if what == "link":
        victim.write_text("x")
        victim.chmod(0o600)
    {"link": lambda: path.symlink_to(victim), "dangling": lambda: path.symlink_to(victim),
     "fifo": lambda: os.mkfifo(path), "folder": path.mkdir}[what]()  # fmt: skip
    descriptor, why = _gpus.lock(Device("0", UUIDS[0]))
    assert descriptor is None and "cannot be opened" in why
    assert not victim.exists() or (victim.read_text() == "x" and stat.S_IMODE(victim.stat().st_mode) == 0o600)
    assert what != "dangling" or not victim.exists()
    held, lines = _gpus.take(_gpus.devices(), 1)
    assert [each.name for each in held] == ["1"] and why in lines
    os.close(*held.values())


def test_a_folder_that_is_not_sticky_or_a_link_is_no_place_for_shared_locks(fake, tmp_path, monkeypatch):
    plain, link = tmp_path / "plain", tmp_path / "link"
    plain.mkdir(), plain.chmod(0o777), link.symlink_to(tmp_path / "shared")
    monkeypatch.setattr(_gpus, "LOCK_PLACES", (str(plain), str(link), str(tmp_path / "none")))
    assert _gpus.lock_folder() == str(tmp_path / "home/.xp/locks")


def test_a_node_takes_the_gpu_that_is_free_and_says_why_not_the_other(fake, tmp_path):
    agent = Agent()
    assert agent.hello(str(tmp_path / "work"), [], {}, None, 1)["slots"] == ["gpu-0", "gpu-1"]
    slots = ["gpu-0", "gpu-1"]
    assert agent.room(slots) == {"free": 2, "lines": []}
    fake.use(20000, 0)
    assert agent.room(slots)["free"] == 1
    text = "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER > seen; sleep 30"
    order = {"folder": "/x/exp/a", "attempt": 1, "experiment": "/x/exp", "cwd": str(tmp_path), "env": {},
             "argv": ["sh", "-c", text], "secret_env": {}, "stdin": ""}  # fmt: skip
    try:
        assert agent.start("a-1", order, slots, 1, 0)["started"]
        while not (tmp_path / "seen").exists() or not (tmp_path / "seen").read_text():
            time.sleep(0.01)
        assert (tmp_path / "seen").read_text() == "1 PCI_BUS_ID\n"
        room = agent.room(slots)
        assert room["free"] == 0 and room["lines"][1] == "GPU 1: another job of xp has it"
        assert room["lines"][0].startswith("GPU 0: 19.5 of 23.4 GB in use by process ")
        answer = agent.start("b-1", order, slots, 1, 0)
        assert answer["why"] == "busy" and "GPU 0: 19.5 of 23.4 GB" in answer["line"]
    finally:
        agent._end("a-1")


def test_a_nodes_own_cuda_visible_devices_bounds_what_is_used_there(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert Agent().hello(str(tmp_path), [], {}, None, 1)["slots"] == ["gpu-1"]
    assert Agent().hello(str(tmp_path), [], {}, ["1"], 1)["slots"] == ["gpu-1"]
    with pytest.raises(RequestRefused, match="GPU 0 was asked for, and CUDA_VISIBLE_DEVICES=1 there leaves 1"):
        Agent().hello(str(tmp_path), [], {}, ["0"], 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Agent().hello(str(tmp_path), [], {}, None, 2)["slots"] == ["cpu-0", "cpu-1"]


def test_workers_of_this_machine_wait_for_a_free_gpu_and_say_so(fake, tmp_path, capfd):
    folder = tmp_path / "exp/job"
    folder.mkdir(parents=True)
    fake.use(20000, 20000)
    executor = LocalExecutor(target="no_such_module:run")
    try:
        executor.submit([Submission(folder=folder)])
        assert executor.n_jobs == 2
        executor.poll(0.1)
        executor.poll(0.1)
        said = capfd.readouterr().err
        assert said.count("xp: waits: GPU 0: 19.5 of 23.4 GB in use by process") == 1 and "gpu_used_max=1" in said
        assert _seats.waits(tmp_path / "exp")[0].startswith("waits: GPU 0: 19.5 of 23.4 GB")
        assert executor.host_errors(tmp_path / "exp") == _seats.waits(tmp_path / "exp")
        fake.use(20000, 0)
        limit = time.monotonic() + 60
        while not executor._workers:
            assert time.monotonic() < limit
            executor.poll(0.5)
        (worker,) = executor._workers.values()
        # Popen returns when exec has closed the pipe to it, a moment before the kernel shows the new environment.
        while not (environment := Path(f"/proc/{worker.pid}/environ").read_bytes()):
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert b"CUDA_VISIBLE_DEVICES=1" in environment.split(b"\0") and _seats.waits(tmp_path / "exp") == []
    finally:
        executor.close()


def test_several_workers_on_one_gpu_share_its_lock_and_another_controller_gets_none(fake, tmp_path):
    (fake.folder / "list").write_text(f"GPU 0: Made up (UUID: {UUIDS[0]})\n")
    one, other = (_seats.Seats(_gpus.devices(), 2, 0.1) for _ in range(2))
    first, second = one.take(0, []), one.take(1, [])
    assert first == second and first is not None and one.take(2, []) is None
    assert other.take(0, [tmp_path]) is None and other.waiting and "another job of xp" in str(_seats.waits(tmp_path))
    one.leave(0)
    assert one.take(0, []) == first
    one.close([])
    other._look_at = 0.0
    assert other.take(0, [tmp_path]) is not None and not other.waiting and _seats.waits(tmp_path) == []
    other.close([tmp_path])


def test_what_a_dead_or_made_up_controller_waits_for_is_not_shown(tmp_path):
    for content in ({"pid": -1, "process_start": None}, {"pid": 2**22 + 7, "process_start": None}, [], {"line": "x"},
                    {"pid": os.getpid(), "process_start": "another", "line": "x"}):  # fmt: skip
        (tmp_path / _seats.WAITS).write_text(json.dumps(content))
        assert _seats.waits(tmp_path) == []
