"""Run folders from somebody else: no process is signalled and no host is asked because a file says so."""

import json
import os
import socket
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from xp.errors import UserError
from xp.runs.executors.submitted import CONTROLLER, ForeignLauncher, controller_of, launcher_settings, note_launcher
from xp.runs.records.lock import LOCK, holder
from xp.runs.records.record import is_process, process_start
from xp.tasks import cancel, gc


@pytest.fixture
def stranger():
    """A process of this user that has nothing to do with xp."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def run_folder(tmp_path, **record):
    folder = tmp_path / "experiment/job"
    folder.mkdir(parents=True)
    content = {
        "state": "running",
        "host": socket.gethostname(),
        "experiment": "x",
        "created": "1",
        "attempts": 1,
        **record,
    }
    (folder / "record.json").write_text(json.dumps(content))
    return folder


def cancelled(folder, tmp_path):
    paths = {"multirun": str(tmp_path / "multirun"), "outputs": str(tmp_path / "outputs")}
    return cancel.show(OmegaConf.create({"cancel": {"folder": str(folder)}, "paths": paths}))


@pytest.mark.parametrize("pid", [-1, 0, 1, True, "1", None, 2**70, 1.0, [1]])
def test_a_pid_that_names_no_process_of_the_run_is_never_signalled(tmp_path, pid, monkeypatch, capsys):
    monkeypatch.setattr(os, "kill", lambda *given: pytest.fail(f"kill{given}"))
    start = process_start(1) if pid == 1 else None
    folder = run_folder(tmp_path, pid=pid, process_start=start)
    (folder.parent / "launcher.json").write_text(
        json.dumps({"controller": {"host": socket.gethostname(), "pid": pid, "process_start": start}})
    )
    assert cancelled(folder, tmp_path) == 0
    assert "was asked to leave" not in capsys.readouterr().out.replace("none was asked to leave", "")


def test_a_strangers_process_is_not_signalled(tmp_path, stranger, capsys):
    start = process_start(stranger.pid)
    folder = run_folder(tmp_path, pid=stranger.pid, process_start=start)
    (folder.parent / "launcher.json").write_text(
        json.dumps({"controller": {"host": socket.gethostname(), "pid": stranger.pid, "process_start": start}})
    )
    assert cancelled(folder, tmp_path) == 0
    assert "no process holds its folder" in capsys.readouterr().out
    assert stranger.poll() is None


def test_a_link_to_another_runs_lock_names_nobody(tmp_path, stranger):
    victim = tmp_path / "victim"
    victim.mkdir()
    code = (
        "from xp.runs.records.lock import locked; from pathlib import Path; import time\n"
        f"with locked(Path({str(victim)!r})): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        assert holder(victim / LOCK) == process.pid
        folder = run_folder(tmp_path, pid=process.pid, process_start=process_start(process.pid))
        for name in (folder / LOCK, folder.parent / CONTROLLER):
            name.symlink_to(victim / LOCK)
        assert holder(folder / LOCK) is None and controller_of(folder.parent) is None
        (folder / LOCK).unlink()
        os.link(victim / LOCK, folder / LOCK)
        assert holder(folder / LOCK) is None
        cancelled(folder, tmp_path)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_the_process_that_holds_the_run_is_asked_to_leave(tmp_path, capsys):
    folder = run_folder(tmp_path)
    code = (
        "import json, signal, sys, time\nfrom pathlib import Path\nfrom xp.runs.records.lock import locked\n"
        "from xp.runs.records.record import Record, whereabouts\n"
        f"folder = Path({str(folder)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "with locked(folder):\n    Record(folder / 'record.json').update(**whereabouts())\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        assert cancelled(folder, tmp_path) == 0
        assert process.wait(60) == 7
    finally:
        process.kill()
        process.wait()
    assert f"process {process.pid} was asked to leave" in capsys.readouterr().out


def test_a_gone_process_is_not_there_because_nobody_knows_when_it_began():
    assert not is_process(2**22 + 1, None)
    assert not is_process(os.getpid(), None)
    assert is_process(os.getpid(), process_start(os.getpid()))


def test_the_lock_of_ones_own_process_is_found_without_losing_it(tmp_path):
    note_launcher(tmp_path, "local", {})
    assert controller_of(tmp_path) == os.getpid()
    code = (
        "from xp.runs.executors.submitted import controller_of; from pathlib import Path\n"
        f"print(controller_of(Path({str(tmp_path)!r})))"
    )
    for _ in range(2):  # asking does not let go of the lock
        assert controller_of(tmp_path) == os.getpid()
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert seen.stdout.strip() == str(os.getpid())


HOSTILE = {"hosts": ["x"], "ssh_config": "/tmp/evil", "python": "touch /tmp/evil"}


@pytest.mark.parametrize("change", ["unsigned", "another key", "changed settings", "changed executor"])
def test_settings_that_this_user_did_not_write_are_not_obeyed(tmp_path, monkeypatch, change):
    experiment = tmp_path / "multirun/experiment"
    experiment.mkdir(parents=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    note_launcher(experiment, "ssh", {"hosts": ["a"]})
    assert launcher_settings(experiment) == ("ssh", {"hosts": ["a"]})
    path = experiment / "launcher.json"
    noted = json.loads(path.read_text())
    if change == "unsigned":
        del noted["signature"]
    elif change == "another key":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    elif change == "changed settings":
        noted["settings"] = HOSTILE
    else:
        noted["executor"] = "slurm"
    path.write_text(json.dumps(noted))
    with pytest.raises(ForeignLauncher, match="not written by your xp"):
        launcher_settings(experiment)
    with pytest.raises(UserError, match="not written by your xp"):
        gc.show(OmegaConf.create({"gc": {"folder": str(experiment), "data": False, "remove": False}}))


def test_one_foreign_experiment_is_a_line_among_others(tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/launcher.json").write_text(json.dumps({"executor": "ssh", "settings": HOSTILE}))
    config = {"gc": {"folder": None, "data": False, "remove": False}, "paths": {"multirun": str(tmp_path)}}
    assert gc.show(OmegaConf.create(config)) == 0
    assert "not written by your xp" in " ".join(capsys.readouterr().out.split())
