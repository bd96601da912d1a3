"""The node's side, jobs: starting, looking at and ending attempts, by the lock and the fence of each job.

Standard library of Python 3.8+.
"""

import contextlib
import os
import signal
import time

from hydra_plugins.xp_executor_base._gpus import USED_MAX
from hydra_plugins.xp_ssh_launcher._agent_files import NO_ROOM, RequestRefused, read_json, remove, write_json
from hydra_plugins.xp_ssh_launcher._agent_jobs import NO_PROCESS, Runner, Slots, at_work
from hydra_plugins.xp_ssh_launcher._agent_locks import Claim, concluded, job_of, number_of, processes_of, verdict

LOOK_S = 0.05


def declined(why, **more):
    """The answer that an attempt was not started and, here, never will be."""
    return {"started": False, "why": why, **more}


class Jobs:
    """The part of the agent that knows processes.

    Args:
        free_bytes: gives the bytes free on the disks that jobs write to.
    """

    def __init__(self, free_bytes):
        self.workdir = ""
        """Where what is known of jobs is; empty until the agent was greeted."""
        self.devices, self.used_max = (), USED_MAX
        self._free_bytes = free_bytes

    def _place(self, key):
        return os.path.join(self.workdir, "jobs", key)

    def start(self, key, order, slots, number, min_free):
        """Start an attempt, once: a copy of the request finds it started, or fenced off if the answer was no."""
        attempt, claim = order["attempt"], Claim(self.workdir, key)
        if claim.raise_to(attempt) > attempt:
            return declined("fenced")
        lock = claim.take_over(key, attempt, self._end)
        if lock is None:
            holder = claim.holder()
            if holder == key:
                return {"started": True}
            claim.raise_to(attempt + 1)
            return declined("busy", line=f"the processes of an earlier attempt ({holder}) do not end")
        try:
            return self._start_alone(key, order, slots, number, min_free, claim, lock)
        finally:
            os.close(lock)

    def _start_alone(self, key, order, slots, number, min_free, claim, lock):
        """Start an attempt while nothing else of its job is at work here: the job's lock is held."""
        attempt = order["attempt"]
        begun = os.path.exists(os.path.join(self._place(key), "spec.json"))
        what = verdict(attempt, claim.fence, None, begun)
        if what == "started":
            return {"started": True}
        if what == "fenced":
            return declined("fenced")
        for pid in processes_of(job_of(key) + "-"):  # somebody removed the lock's file under them
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        answer = {}
        try:
            answer = self._spawn(key, order, slots, number, min_free, claim, lock)
        finally:
            if not answer.get("started"):
                claim.raise_to(attempt + 1)
        return answer

    def _spawn(self, key, order, slots, number, min_free, claim, lock):
        free = self._free_bytes()
        if free < min_free:
            return declined("full", free=free)
        held, lines = Slots(slots, self.devices, self.used_max).take(number)
        if not held:
            return declined("busy", **({"line": "; ".join(lines)} if lines else {}))
        place = self._place(key)
        try:
            os.makedirs(place, mode=0o700, exist_ok=True)
            spec = {name: order[name] for name in ("folder", "attempt", "argv", "cwd", "experiment")}
            write_json(os.path.join(place, "spec.json"), spec)
            Runner(place, key, order, held, claim, lock).detach()
        except OSError as error:
            remove(place)
            if error.errno in NO_ROOM:
                return declined("full", free=free)
            if error.errno in NO_PROCESS:
                return declined("busy", line=f"no process can be made there ({os.strerror(error.errno)})")
            raise
        finally:
            for descriptor in held.values():
                os.close(descriptor)
        return {"started": True}

    def room(self, slots):
        """How many of these slots could be taken now, and why not the others."""
        free, lines = Slots(slots, self.devices, self.used_max).free()
        return {"free": free, "lines": lines}

    def poll(self, keys, known, wait_s):
        """{key: state}; answers as soon as one is not as `known`, or after `wait_s`."""
        until = time.monotonic() + wait_s
        while True:
            states = {key: self.state(key) for key in keys}
            if wait_s <= 0 or states != known or time.monotonic() >= until:
                return {"jobs": states, "free": self._free_bytes()}
            time.sleep(LOOK_S)

    def state(self, key):
        """`running`, `ended CODE`, `gone` (its processes vanished: a kill, a reboot), or `unknown` (never started)."""
        place = self._place(key)
        # In this order: the lock is held from before spec.json is there until after exit.json is.
        begun = os.path.exists(os.path.join(place, "spec.json"))
        held = self._code(place) is None and self._held(key, place)
        return concluded(self._code(place), held, begun)

    def _code(self, place):
        return read_json(os.path.join(place, "exit.json"), {}).get("code")

    def _held(self, key, place):
        """Whether an attempt is at work or being started: it holds its job's lock, or processes of it are there."""
        if Claim(self.workdir, key).holder() == key:
            return True
        pids = read_json(os.path.join(place, "pid.json"), {})
        at = at_work(pids.get("runner"), pids.get("runner_start")) or at_work(pids.get("pid"), pids.get("start"))
        return at or bool(processes_of(key))

    def output_tail(self, key, limit=4000):
        """The end of what a job's process wrote outside of its own log."""
        try:
            with open(os.path.join(self._place(key), "out.txt"), "rb") as handle:
                size = handle.seek(0, os.SEEK_END)
                handle.seek(max(0, size - limit))
                return {"text": handle.read().decode(errors="replace").strip()}
        except OSError:
            return {"text": ""}

    def stop(self, key, grace_s):
        """Ask a job to leave; its runner ends it when the grace time is over, whoever is connected then."""
        place = self._place(key)
        if self.state(key) == "running":
            write_json(os.path.join(place, "stop.json"), {"deadline": time.monotonic() + grace_s})
            self._signal(key, signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
        return {}

    def fence(self, key, folder, attempt, discard):
        """End what is below `attempt` of a job, and let nothing below it start here any more. Discards its copy.

        A late copy of the request changes nothing: attempts from `attempt` on, and what they write, are left alone.
        """
        claim = Claim(self.workdir, key)
        claim.raise_to(attempt)
        lock = claim.take_over(key, attempt, self._end)
        if lock is None:
            if number_of(claim.holder() or key) >= attempt:
                return {}
            raise RequestRefused(f"the processes of {key} do not end")
        try:
            for pid in processes_of(key):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if discard and not any(number_of(each) >= attempt for each in self._attempts(key)):
                remove(folder)
        finally:
            os.close(lock)
        return {}

    def _attempts(self, key):
        """Keys of all attempts of a job that were begun here."""
        folder, job = os.path.join(self.workdir, "jobs"), job_of(key)
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return [name for name in names if job_of(name) == job]

    def _end(self, key):
        """Kill an attempt at once, its runner last: it would note the exit code."""
        self._signal(key, signal.SIGKILL)
        for pid in processes_of(key):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _signal(self, key, number):
        pids = read_json(os.path.join(self._place(key), "pid.json"), {})
        if at_work(pids.get("pid"), pids.get("start")):
            with contextlib.suppress(OSError):
                os.killpg(pids["pid"], number)
