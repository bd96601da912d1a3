"""The node's side: one script of the standard library (Python 3.8+), sent over ssh's input with each connection.

It answers lines of JSON with lines of JSON until its input ends. Jobs it starts are sessions of their own that hold a
lock per GPU, so they outlive the connection, the controller and the agent. All that it knows about an attempt is in
WORKDIR/jobs/KEY: `spec.json` (what was started), `pid.json` (the runner and the job), `exit.json` (how it ended);
whether it is at work is told by its job's lock (`_agent_locks`).
"""

import base64
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time

from hydra_plugins.xp_executor_base import _gpus
from hydra_plugins.xp_ssh_launcher._agent_files import (
    NO_ROOM,
    RequestRefused,
    content_hash,
    entry,
    listing,
    make_folder,
    put,
    quick_hash,
    read_json,
    read_small,
    receive,
    remove,
    send,
    size_of,
    write_json,
)  # fmt: skip
from hydra_plugins.xp_ssh_launcher._agent_jobs import NO_PROCESS
from hydra_plugins.xp_ssh_launcher._agent_locks import Claim, check_locks, number_of
from hydra_plugins.xp_ssh_launcher._agent_work import Jobs

BUDGET = 4 * 1024 * 1024
"""Bytes of files inside one answer, at most."""
NOTES = ("jobs", "locks", "placed", "setup")
"""Folders in WORKDIR that are the agent's own."""
OWNER = ".xp_owner"
"""In an experiment's folder on a node: which controller it belongs to."""


class Agent(Jobs):
    """Answers requests. `workdir` holds what the node knows about jobs and about what was put where."""

    def __init__(self):
        super().__init__(self.free)
        self.places = []

    def hello(self, workdir, folders, marks, gpus_wanted, slots, used_max=_gpus.USED_MAX):
        """Who and where this is; makes the folders that jobs will live in."""
        self.workdir = os.path.expanduser(workdir)
        make_folder(self.workdir)
        check_locks(self.workdir)
        shared = [path for path, mark in marks.items() if read_json(path) == mark]
        for folder in folders:
            make_folder(folder)
        self.places = [self.workdir, *folders]
        self.devices, self.used_max = _gpus.devices() if gpus_wanted != [] else [], used_max
        there = [device.name for device in self.devices]
        missing = [each for each in gpus_wanted or [] if each not in there]
        if missing:
            given = os.environ.get("CUDA_VISIBLE_DEVICES")
            shown = "nvidia-smi shows" if given is None else f"CUDA_VISIBLE_DEVICES={given} there leaves"
            raise RequestRefused(
                f"GPU {missing[0]} was asked for, and {shown} {', '.join(there) or 'none'}. Correct `gpus` of "
                "this host in hydra.launcher.hosts (gpus: [] uses its processor alone)"
            )
        mine = there if gpus_wanted is None else gpus_wanted
        names = [f"gpu-{each}" for each in mine] or [f"cpu-{number}" for number in range(slots)]
        return {
            "hostname": socket.gethostname(), "python": platform.python_version(), "workdir": self.workdir,
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "slots": names, "shared": bool(shared), "rsync": shutil.which("rsync") is not None,
            "free": self.free(),
        }  # fmt: skip

    def free(self):
        """Bytes free on the fullest of the disks that jobs write to."""
        return min(shutil.disk_usage(path).free for path in self.places if os.path.isdir(path))

    def claim(self, experiment, owner):
        """Take the folder of an experiment for a controller; a stale copy of another one that is not at work goes."""
        mark = os.path.join(experiment, OWNER)
        if not os.path.isdir(experiment) or not os.listdir(experiment):
            make_folder(experiment)
        elif read_json(mark) is None:
            raise RequestRefused(
                f"{experiment} is there and was not put there by xp. Move it away, or choose another place for this "
                "experiment: hydra.sweep.dir=FOLDER"
            )  # fmt: skip
        elif read_json(mark) != owner:
            self.clear(experiment)
            make_folder(experiment)
        write_json(mark, owner)
        return {}

    def set_up(self, commands, cwd, key, env):
        """Run the set-up commands, each of them once per node and text; two controllers take turns."""
        marker = os.path.join(self.workdir, "setup", key)
        os.makedirs(os.path.dirname(marker), exist_ok=True)
        with open(marker + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.exists(marker):
                return {"ran": False}
            for command in commands:
                done = subprocess.run(
                    ["sh", "-c", command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, env={**os.environ, **env},
                )  # fmt: skip
                if done.returncode:
                    words = done.stdout.decode(errors="replace").strip().splitlines()[-3:]
                    raise RequestRefused(
                        f"the set-up command {command!r} ended with {done.returncode}: {' / '.join(words)}"
                    )
            write_json(marker, {"time": time.time()})
        return {"ran": True}

    def check_python(self, python, code):
        """Whether the jobs' interpreter can load what runs them."""
        try:
            done = subprocess.run([python, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        except subprocess.TimeoutExpired:
            return {"slow": True}
        except OSError as error:
            if error.errno in NO_PROCESS:
                raise
            raise RequestRefused(
                f"{python} cannot be run ({error.strerror}). Name the jobs' interpreter there: "
                "hydra.launcher.python=PATH for all hosts, or `python` of this one"
            ) from None
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines() or ["no words"]
            raise RequestRefused(
                f"{python} cannot run jobs: {words[-1]}. Give hydra.launcher.setup=[COMMAND] that installs what xp "
                "needs, and hydra.launcher.python=PATH"
            )
        return {}

    # -- files

    def list(self, path, skip=()):
        return {"files": listing(path, skip), "exists": os.path.exists(path)}

    def make(self, path):
        os.makedirs(path, exist_ok=True)
        return {}

    def read(self, path, names):
        """Contents of small files, as many as fit into one answer: {name: [entry, base64]}."""
        found, used = {}, 0
        for name in names:
            try:
                known = entry(os.stat(os.path.join(path, name)))
            except OSError:
                continue
            data = read_small(os.path.join(path, name), known)
            if data is not None:
                found[name] = [known, data]
                used += len(data)
            if used > BUDGET:
                break
        return {"files": found}

    def write(self, path, files, gone):
        """Write small files below a folder and remove others: `files` = {name: [mtime_ns, mode, base64]}."""
        for name, (mtime_ns, mode, data) in files.items():
            put(os.path.join(path, name) if name else path, base64.b64decode(data), mtime_ns, mode)
        for name in gone:
            remove(os.path.join(path, name))
        return {}

    def read_part(self, path, name, offset, size):
        """A piece of a file, for nodes that allow no channel beside this one; `entry` is None if it vanished."""
        try:
            with open(os.path.join(path, name), "rb") as handle:
                handle.seek(offset)
                data = handle.read(min(size, BUDGET))
                return {"data": base64.b64encode(data).decode(), "entry": entry(os.fstat(handle.fileno()))}
        except FileNotFoundError:
            return {"data": "", "entry": None}

    def write_part(self, path, name, offset, data, mode, last):
        """Add a piece to a file that appears with its last one."""
        whole = os.path.join(path, name)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        temporary = os.path.join(os.path.dirname(whole), f".{os.path.basename(whole)[:80]}.tmp-part")
        with open(temporary, "r+b" if offset else "wb") as handle:
            handle.seek(offset)
            handle.write(base64.b64decode(data))
            handle.truncate()
        if last:
            os.chmod(temporary, mode | 0o600)
            os.replace(temporary, whole)
        return {}

    def settle(self, path, times):
        """Give files the exact times that they have at the controller (tar rounds them)."""
        for name, mtime_ns in times.items():
            os.utime(os.path.join(path, name) if name else path, ns=(mtime_ns, mtime_ns))
        return {}

    def holds(self, path, sha256, skip=()):
        """Whether a path has the wanted content; `placed` tells whether it was put there by xp."""
        note = read_json(self._note(path), {})
        if not os.path.exists(path):
            return {"exists": False, "same": False, "placed": bool(note)}
        quick = quick_hash(path, skip)
        if note.get("sha256") == sha256 and note.get("quick") == quick:
            return {"exists": True, "same": True, "placed": True}
        same = content_hash(path, skip) == sha256
        if same:
            write_json(self._note(path), {"path": path, "sha256": sha256, "quick": quick, "placed": note.get("placed")})
        return {"exists": True, "same": same, "placed": bool(note.get("placed"))}

    def install(self, source, path, sha256, skip=()):
        """Put what was received beside `path` into its place, after comparing its hash."""
        found = content_hash(source)
        if found != sha256:
            raise RequestRefused(f"{path} arrived with another content than it was sent with")
        if os.path.lexists(path):
            aside = source + ".old"
            os.rename(path, aside)
            os.rename(source, path)
            remove(aside)
        else:
            os.rename(source, path)
        note = {"path": path, "sha256": sha256, "quick": quick_hash(path, skip), "placed": True, "time": time.time()}
        write_json(self._note(path), note)
        return {}

    def _note(self, path):
        return os.path.join(self.workdir, "placed", hashlib.sha256(path.encode()).hexdigest()[:24] + ".json")

    # -- what is here

    def survey(self, experiments):
        """Sizes of the given experiments' folders, of what was put here by content, and of the jobs' environment."""
        placed = []
        folder = os.path.join(self.workdir, "placed")
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            note = read_json(os.path.join(folder, name), {})
            if note.get("placed") and os.path.exists(note["path"]):
                placed.append({"path": note["path"], "bytes": size_of(note["path"])})
        jobs, running = {}, set()
        folder = os.path.join(self.workdir, "jobs")
        for key in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            spec = read_json(os.path.join(folder, key, "spec.json"))
            if spec:
                jobs.setdefault(spec["experiment"], []).append(key)
                if self.state(key) == "running":
                    running.add(spec["experiment"])
        names = sorted(set(jobs) | set(experiments))
        found = [{"path": path, "bytes": size_of(path), "jobs": len(jobs.get(path, [])), "running": path in running}
                 for path in names if os.path.isdir(path)]  # fmt: skip
        made = sum(size_of(path) for path in self._made())
        environments = [{"path": self.workdir, "bytes": made, "running": bool(running)}] if made else []
        return {"experiments": found, "placed": placed, "environments": environments, "free": self.free()}

    def clear(self, experiment):
        """Remove an experiment's folder and notes; refused while one of its jobs is at work."""
        folder = os.path.join(self.workdir, "jobs")
        known = os.listdir(folder) if os.path.isdir(folder) else []
        specs = {key: read_json(os.path.join(folder, key, "spec.json"), {}) for key in known}
        keys = [key for key, spec in specs.items() if spec.get("experiment") == experiment]  # fmt: skip
        if os.path.isdir(experiment) and read_json(os.path.join(experiment, OWNER)) is None:
            raise RequestRefused(f"{experiment} was not put there by xp")
        if any(self.state(key) == "running" for key in keys):
            raise RequestRefused(f"a job of {experiment} is at work")
        freed = size_of(experiment)
        remove(experiment)
        for key in keys:
            Claim(self.workdir, key).raise_to(number_of(key) + 1)  # a request that is still on its way starts nothing
            remove(os.path.join(folder, key))
        return {"bytes": freed}

    def clear_environment(self, path):
        """Remove what set-up commands made in the working folder; the next job there has it made again."""
        folder = os.path.join(self.workdir, "jobs")
        if any(self.state(key) == "running" for key in (os.listdir(folder) if os.path.isdir(folder) else [])):
            raise RequestRefused(f"a job runs in the environment in {path}")
        freed = sum(size_of(each) for each in self._made())
        for each in (os.path.join(self.workdir, "setup"), *self._made()):
            remove(each)
        return {"bytes": freed}

    def _made(self):
        """What set-up commands have made in the working folder: all there that is not the agent's own."""
        names = sorted(os.listdir(self.workdir)) if os.path.isdir(self.workdir) else []
        return [os.path.join(self.workdir, name) for name in names if name not in NOTES]

    def clear_placed(self, path):
        """Remove something that xp put here by content."""
        note = read_json(self._note(path), {})
        if not note.get("placed"):
            raise RequestRefused(f"{path} was not put there by xp")
        freed = size_of(path)
        remove(path)
        remove(self._note(path))
        return {"bytes": freed}


def serve(channel, out):
    """Answer requests until the input ends."""
    agent = Agent()
    operations = {name for name in dir(Agent) if not name.startswith("_")}
    for line in channel:
        request = json.loads(line)
        name = request.pop("do")
        try:
            if name not in operations:
                raise RequestRefused(f"unknown request {name}")
            answer = {"ok": getattr(agent, name)(**request)}
        except RequestRefused as error:
            answer = {"refused": str(error)}
        except OSError as error:
            answer = {"refused": f"{error.strerror} ({error.filename})", "errno": error.errno}
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()


def main(mode, channel):
    """Entry: `channel` is the binary standard input, just behind this script's own text."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        {"serve": serve, "send": send, "receive": receive}[mode](channel, out)
    except BrokenPipeError:
        os._exit(1)
    except RequestRefused as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(3)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(4 if error.errno in NO_ROOM else 1)
