"""Attempts on a node, with the agent's own code and real processes: started once, ended for good, never called gone."""

import errno
import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from hydra_plugins.xp_ssh_launcher import _agent_jobs
from hydra_plugins.xp_ssh_launcher._agent import Agent
from hydra_plugins.xp_ssh_launcher._agent_client import AgentClient
from hydra_plugins.xp_ssh_launcher._agent_files import RequestRefused
from hydra_plugins.xp_ssh_launcher._agent_locks import Claim, processes_of
from hydra_plugins.xp_ssh_launcher._hosts import parse_host
from hydra_plugins.xp_ssh_launcher._transport import Link


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A function that gives agents of one node, and ends what they started when the test is over."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    workdir = tmp_path / "home/.xp"

    def agent() -> Agent:
        made = Agent()
        made.hello(str(workdir), [], {}, [], 4)
        return made

    yield agent
    for key in os.listdir(workdir / "jobs") if (workdir / "jobs").is_dir() else []:
        agent()._end(key)


def order(tmp_path, text="sleep 60", attempt=1, job="job"):
    return {"folder": str(tmp_path / "exp" / job), "attempt": attempt, "experiment": str(tmp_path / "exp"),
            "cwd": str(tmp_path), "argv": ["sh", "-c", text], "env": {}, "secret_env": {}, "stdin": ""}  # fmt: skip


def start(agent, key, what, slots=("cpu-0", "cpu-1", "cpu-2", "cpu-3")):
    return agent.start(key, what, list(slots), 1, 0)


def until(condition, what):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.01)


def test_a_poll_of_another_process_never_calls_a_job_gone_that_is_just_being_started(node, tmp_path):
    here, there = node(), node()
    for number in range(8):
        key, (read, write) = f"k{number}-1", os.pipe()
        if os.fork() == 0:  # as on a node: a process of its own polls, as fast as it can
            try:
                seen = set()
                while "running" not in seen:
                    seen.add(there.state(key))
                os.write(write, ",".join(seen).encode())
            finally:
                os._exit(0)
        os.close(write)
        assert start(here, key, order(tmp_path, "sleep 30", job=key), [f"cpu-{number}"]) == {"started": True}
        with os.fdopen(read) as pipe:
            assert set(pipe.read().split(",")) <= {"unknown", "running"}
        os.wait()


def test_the_same_start_on_two_channels_at_once_makes_one_process(node, tmp_path):
    marks, answers = tmp_path / "marks", []
    text = f"echo x >> {marks}; sleep 30"
    agents = [node() for _ in range(4)]
    threads = [
        threading.Thread(target=lambda a=a: answers.append(start(a, "k-1", order(tmp_path, text)))) for a in agents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"started": True}] * 4
    until(marks.exists, "the job")
    assert marks.read_text() == "x\n" and node().state("k-1") == "running"


def test_a_later_attempt_ends_the_earlier_one_first_and_the_earlier_never_starts_again(node, tmp_path):
    agent = node()
    assert start(agent, "k-1", order(tmp_path))["started"]
    pid = json.loads((tmp_path / "home/.xp/jobs/k-1/pid.json").read_text())["pid"]
    assert start(node(), "k-2", order(tmp_path, attempt=2))["started"]
    assert _agent_jobs.process_start(pid) is None
    assert agent.state("k-1").startswith(("ended", "gone")) and agent.state("k-2") == "running"
    assert start(agent, "k-1", order(tmp_path)) == {"started": False, "why": "fenced"}


def test_an_answer_of_no_holds_for_a_late_copy_of_the_request(node, tmp_path):
    agent = node()
    assert start(agent, "other-1", order(tmp_path, job="other"), ["cpu-0"])["started"]
    assert start(agent, "k-1", order(tmp_path), ["cpu-0"]) == {"started": False, "why": "busy"}
    agent._end("other-1")
    until(lambda: agent.state("other-1") != "running", "the other job's end")
    assert start(agent, "k-1", order(tmp_path), ["cpu-0"]) == {"started": False, "why": "fenced"}
    number = itertools.count(2)  # the slot is free when the other job's last process is gone, a moment after its end

    def again() -> bool:
        attempt = next(number)
        return start(agent, f"k-{attempt}", order(tmp_path, attempt=attempt), ["cpu-0"])["started"]

    until(again, "a free slot")


def test_a_late_copy_of_a_fence_touches_neither_the_next_attempt_nor_its_files(node, tmp_path):
    agent, folder = node(), tmp_path / "exp/job"
    agent.fence("k-1", str(folder), 2, True)
    folder.mkdir(parents=True)
    assert start(agent, "k-2", order(tmp_path, "sleep 30", attempt=2))["started"]
    agent.fence("k-1", str(folder), 2, True)
    assert folder.is_dir() and agent.state("k-2") == "running"
    agent._end("k-2")
    until(lambda: agent.state("k-2") != "running", "its end")
    agent.fence("k-1", str(folder), 2, True)
    assert folder.is_dir()
    agent.fence("k-2", str(folder), 3, True)
    assert not folder.exists()


def test_a_job_whose_notes_and_locks_were_removed_is_still_known_to_be_at_work(node, tmp_path):
    import shutil

    assert start(node(), "k-1", order(tmp_path))["started"]
    shutil.rmtree(tmp_path / "home/.xp")
    agent = node()
    assert agent.state("k-1") == "running"
    assert start(agent, "k-2", order(tmp_path, attempt=2))["started"]
    until(lambda: not processes_of("k-1"), "the end of the first")
    assert agent.state("k-2") == "running"


def test_a_pid_that_another_process_has_now_is_not_the_job(node, tmp_path):
    agent, place = node(), tmp_path / "home/.xp/jobs/k-1"
    place.mkdir(parents=True)
    (place / "spec.json").write_text("{}")
    for pid, begun in ((os.getpid(), "another boot/17"), (-1, None), (0, None), (2**22 + 9, None)):
        pids = {"runner": None, "runner_start": None, "pid": pid, "start": begun}
        (place / "pid.json").write_text(json.dumps(pids))
        assert agent.state("k-1") == "gone"
        agent.stop("k-1", 0)  # signals nobody


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.ENOSPC])
def test_a_node_without_room_for_a_process_or_a_file_says_so_and_nothing_is_at_work(
    node, tmp_path, monkeypatch, number
):
    agent = node()

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(_agent_jobs.os, "fork", refuse)
        answer = start(agent, "k-1", order(tmp_path))
    why = "full" if number == errno.ENOSPC else "busy"
    assert not answer["started"] and answer["why"] == why and agent.state("k-1") == "unknown"
    assert Claim(agent.workdir, "k-1").holder() is None
    with monkeypatch.context() as patch:  # in the child: whatever fails after the fork is heard of as well
        patch.setattr(_agent_jobs, "write_json", refuse)
        answer = start(agent, "k-2", order(tmp_path, attempt=2))
    assert not answer["started"] and answer["why"] == why
    until(lambda: not processes_of("k-2"), "the end of what was started")
    assert start(agent, "k-3", order(tmp_path, "sleep 30", attempt=3))["started"]


def test_a_node_that_is_busy_is_tried_again_and_one_without_the_interpreter_is_refused(node, monkeypatch):
    import subprocess

    from hydra_plugins.xp_ssh_launcher import _agent
    from hydra_plugins.xp_ssh_launcher._agent_client import _kind
    from hydra_plugins.xp_ssh_launcher._ssh_errors import NoRoom, Unreachable
    from hydra_plugins.xp_ssh_launcher._ssh_errors import Refused as Answered

    kinds = {errno.EAGAIN: Unreachable, errno.ENOMEM: Unreachable, errno.ESTALE: Unreachable, errno.ENOSPC: NoRoom,
             errno.EDQUOT: NoRoom, errno.EACCES: Answered, None: Answered}  # fmt: skip
    assert {number: _kind(number) for number in kinds} == kinds
    agent = node()
    with pytest.raises(RequestRefused, match="/no/python cannot be run"):
        agent.check_python("/no/python", "pass")

    def raising(error):
        def run(*_, **__):
            raise error

        return run

    monkeypatch.setattr(_agent.subprocess, "run", raising(OSError(errno.EAGAIN, "try again")))
    with pytest.raises(OSError, match="try again"):
        agent.check_python("python3", "pass")
    monkeypatch.setattr(_agent.subprocess, "run", raising(subprocess.TimeoutExpired("python3", 120)))
    assert agent.check_python("python3", "pass") == {"slow": True}


def test_a_working_folder_that_cannot_be_locked_is_refused_with_what_to_type(node, monkeypatch):
    from hydra_plugins.xp_ssh_launcher import _agent_locks

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_agent_locks.fcntl, "flock", refuse)
    with pytest.raises(RequestRefused, match="without locks.*hydra.launcher.workdir="):
        node()


def test_twenty_starts_on_a_real_node_are_never_called_gone_by_the_other_channel(pair, tmp_path):
    host = parse_host({"host": "node1"})
    link = Link(host, python=sys.executable, ssh_config=str(pair.config))
    link.connect()
    work, watch = AgentClient(link), AgentClient(link)
    seen, done = set(), threading.Event()
    keys = [f"twenty{number}-1" for number in range(20)]

    def look():
        while not done.is_set():
            seen.update(watch.ask("poll", keys=keys, known={}, wait_s=0)["jobs"].values())

    try:
        for channel in (work, watch):
            channel.greet(workdir="~/.xp", folders=[], marks={}, gpus_wanted=[], slots=20)
        poller = threading.Thread(target=look)
        poller.start()
        for number, key in enumerate(keys):
            what = {**order(Path("/tmp"), "sleep 60", job=key), "folder": f"/nowhere/{key}", "cwd": "/"}
            assert work.ask("start", key=key, order=what, slots=[f"cpu-{number}"], number=1, min_free=0)["started"]
        done.set()
        poller.join()
        assert seen <= {"unknown", "running"} and "running" in seen
        for key in keys:
            work.ask("stop", key=key, grace_s=0)
    finally:
        done.set()
        work.close(), watch.close(), link.close()
