"""The node's side, processes: detached jobs that hold a lock per GPU. Standard library of Python 3.8+."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import time
import traceback

from hydra_plugins.xp_executor_base import _gpus
from hydra_plugins.xp_ssh_launcher._agent_files import read_json, write_json
from hydra_plugins.xp_ssh_launcher._agent_locks import KEY_VARIABLE, flocked

NO_PROCESS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""The machine has no room for another process now; later it may."""


def process_start(pid):
    """When a process started (boot id and ticks), None if it is gone; where there is no /proc, whether it is there."""
    if os.path.exists("/proc/self/stat"):
        try:
            with open(f"/proc/{pid}/stat") as handle:
                fields = handle.read().rpartition(")")[2].split()
            with open("/proc/sys/kernel/random/boot_id") as handle:
                boot = handle.read().strip()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"


def at_work(pid, start):
    """Whether that very process is there: a pid that was used again, or of before a reboot, is another one."""
    return isinstance(pid, int) and pid > 1 and start is not None and process_start(pid) == start


class Slots:
    """Locks on GPUs (or shares of the processor), held by the job's own processes until the last of them ends.

    GPUs are locked where all accounts see it, and only if nobody else uses them; shares of the processor in the home.
    """

    def __init__(self, names, devices=(), used_max=_gpus.USED_MAX):
        self.folder = os.path.expanduser("~/.xp/locks")
        self.names, self.used_max = names, used_max
        known = {f"gpu-{device.name}": device for device in devices}
        self.devices = [known.get(name, _gpus.Device(name[4:], "")) for name in names if name.startswith("gpu-")]

    def take(self, number):
        """({name: descriptor} of `number` free slots, lines): empty if there are too few; the lines say why."""
        if self.devices:
            held, lines = _gpus.take(self.devices, number, self.used_max)
            return {f"gpu-{device.name}": descriptor for device, descriptor in held.items()}, lines
        os.makedirs(self.folder, exist_ok=True)
        held = {}
        for name in self.names:
            if len(held) == number:
                break
            descriptor = os.open(os.path.join(self.folder, name), os.O_RDWR | os.O_CREAT, 0o666)
            if flocked(descriptor, fcntl.LOCK_EX):
                held[name] = descriptor
            else:
                os.close(descriptor)
        if len(held) == number:
            return held, []
        for descriptor in held.values():
            os.close(descriptor)
        return {}, []

    def free(self):
        """(how many slots could be taken now, why not the others)."""
        for number in range(len(self.names), 0, -1):
            held, lines = self.take(number)
            for descriptor in held.values():
                os.close(descriptor)
            if held:
                return number, lines
        return 0, lines if self.names else []


def hear_signals():
    """In a job's process before it starts: its runner ignores signals, the job must not."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


class Runner:
    """The process that starts a job, waits for it and writes down how it ended. It belongs to no connection.

    It and the job inherit the job's lock (`claim` made it, `lock` is its descriptor) and the slots' locks.
    """

    def __init__(self, place, key, order, slots, claim, lock):
        self.place, self.key, self.order, self.slots, self.claim, self.lock = place, key, order, slots, claim, lock

    def detach(self):
        """Fork twice into a session of its own; returns in the caller once the job's process is known.

        Raises:
            OSError: no process could be made, or nothing could be written down about it: nothing is at work.
        """
        ready, told = os.pipe()
        try:
            first = os.fork()
        except OSError:
            os.close(ready)
            os.close(told)
            raise
        if first == 0:
            self._in_child(ready, told)
        os.close(told)
        os.waitpid(first, 0)
        with os.fdopen(ready, "rb") as handle:
            word = handle.read().decode()
        if word:
            raise OSError(int(word), os.strerror(int(word)))

    def _in_child(self, ready, told):
        """Never returns: whatever happens, this process must not go on as a second agent."""
        status = 1
        try:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.close(ready)
            status = self.run(told)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(told, str(error.errno or errno.EIO).encode())
        except BaseException:
            with contextlib.suppress(OSError), open(os.path.join(self.place, "out.txt"), "a") as handle:
                handle.write(traceback.format_exc())
        finally:
            os._exit(status)

    def run(self, told):
        """Start the job and see it through; `told` is closed once it is at work, or gets the number of an error."""
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        kept = {told, self.lock, *self.slots.values()}
        for number in range(3, 256):
            if number not in kept:  # the connection's pipes above all: ssh waits for them
                with contextlib.suppress(OSError):
                    os.close(number)
        out = os.open(os.path.join(self.place, "out.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in ((0, null), (1, out), (2, out)):
            os.dup2(source, target)
        job = self.start(out)
        os.close(told)
        if job is None:
            return 1
        self._feed(job)
        code = self.attend(job)
        with contextlib.suppress(OSError):
            os.killpg(job.pid, signal.SIGKILL)  # what the job left behind must not hold the GPU
        self.note(code)
        return 0

    def start(self, out):
        """The job's process; None if its program cannot be run, which is noted as the end of the attempt."""
        order = self.order
        environment = dict(os.environ)
        environment.update(order["env"])
        environment.update(order["secret_env"])
        environment[KEY_VARIABLE] = self.key
        names = sorted(name[4:] for name in self.slots if name.startswith("gpu-"))
        if names:
            environment.update(_gpus.settings_for([_gpus.Device(name, "") for name in names]))
        try:
            job = subprocess.Popen(
                order["argv"], cwd=order["cwd"], env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out,
                start_new_session=True, pass_fds=(self.lock, *self.slots.values()), preexec_fn=hear_signals,
            )  # fmt: skip
        except OSError as error:
            if error.errno in NO_PROCESS:
                raise
            os.write(out, f"{order['argv'][0]}: {error.strerror}\n".encode())
            self.note(127)
            return None
        try:
            write_json(os.path.join(self.place, "pid.json"), {
                "runner": os.getpid(), "runner_start": process_start(os.getpid()),
                "pid": job.pid, "start": process_start(job.pid), "slots": sorted(self.slots), "since": time.time(),
            })  # fmt: skip
        except OSError:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            raise
        return job

    def _feed(self, job):
        """Give the job its input: what is secret and goes into no file."""
        assert job.stdin is not None
        with contextlib.suppress(OSError), job.stdin as channel:
            channel.write(self.order["stdin"].encode())

    def attend(self, job):
        """Wait for the job; end it when its grace time is over or when a later attempt has been fenced in."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return job.wait(timeout=0.5)
            stop = read_json(os.path.join(self.place, "stop.json"), {})
            overdue = stop and time.monotonic() > stop["deadline"]
            if overdue or self.claim.fence > self.order["attempt"]:
                with contextlib.suppress(OSError):
                    os.killpg(job.pid, signal.SIGKILL)

    def note(self, code):
        """Write the exit code; on a full disk, keep trying: nobody else knows it."""
        for _ in range(600):
            try:
                write_json(os.path.join(self.place, "exit.json"), {"code": code, "time": time.time()})
                return
            except OSError:
                time.sleep(1.0)
