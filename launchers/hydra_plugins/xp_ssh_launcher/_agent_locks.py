"""The node's side, who may be at work: a lock and a fence per job. Standard library of Python 3.8+.

The lock (`WORKDIR/locks/JOB.lock`) is taken before anything of an attempt is written, and is inherited by the
attempt's runner and by the job's own process; the system drops it when the last of them ends, however it ends. So
whoever can take it knows that nothing of the job is at work here or being started: nobody guesses that from files.
The fence (`WORKDIR/locks/JOB.fence`) is a number that only grows: no attempt below it may start here any more. Every
answer "not started" raises it first, so that a copy of the request that is still on its way starts nothing.
"""

import contextlib
import errno
import fcntl
import os
import re
import time

from hydra_plugins.xp_ssh_launcher._agent_files import RequestRefused

KEY_VARIABLE = "XP_SSH_KEY"
"""In the environment of a job's processes: which attempt they belong to."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
_WIDTH = 200
_LOOK_S = 0.01
_PROBED_S = 1.0
"""A lock may be held for an instant by somebody who only looks whether it is."""


def verdict(attempt, fence, holder, begun):
    """What a request to start an attempt has to do. Pure: the same rule is checked by a model of the protocol.

    Args:
        attempt: the attempt's number.
        fence: no attempt below it may start here.
        holder: number of the attempt that holds the job's lock; None if nobody does.
        begun: whether this very attempt was started here before.

    Returns:
        `fenced` (it may not start, now or ever), `started` (it was, nothing is to be done), `end` (an earlier attempt
        is at work: it has to be ended first), or `go`.
    """
    if fence > attempt:
        return "fenced"
    if holder is not None and holder > attempt:
        return "fenced"
    if holder == attempt or begun:
        return "started"
    return "end" if holder is not None else "go"


def concluded(ended, held, begun):
    """What a poll may say of an attempt: `gone` only if it has taken the job's lock and found no word of an end.

    Args:
        ended: the exit code that was written down, else None.
        held: whether this attempt holds the job's lock.
        begun: whether it was started here.
    """
    if ended is not None:
        return f"ended {ended}"
    if held:
        return "running"
    return "gone" if begun else "unknown"


def job_of(key):
    """The part of an attempt's key that all attempts of its job share."""
    return key.rpartition("-")[0] or key


def number_of(key):
    """The attempt's number at the end of its key; 1 where there is none."""
    found = re.search(r"-(\d+)$", key)
    return int(found.group(1)) if found else 1


class Claim:
    """The lock and the fence of one job on this node."""

    def __init__(self, workdir, key):
        folder = os.path.join(workdir, "locks")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.lock, self.mark = (os.path.join(folder, job_of(key) + end) for end in (".lock", ".fence"))

    def take(self, key):
        """A descriptor that holds the lock for an attempt, or None if another process has it."""
        while True:
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if not flocked(descriptor, fcntl.LOCK_EX):
                    os.close(descriptor)
                    return None
                if same_file(descriptor, self.lock):
                    os.pwrite(descriptor, key.encode().ljust(_WIDTH), 0)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the file was removed meanwhile: that lock excludes nobody

    def holder(self):
        """The key of the attempt that holds the lock; None if nobody does."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY)
        except OSError:
            return None
        try:
            if flocked(descriptor, fcntl.LOCK_SH):
                return None
            return os.pread(descriptor, _WIDTH, 0).decode(errors="replace").strip("\0 ")
        finally:
            os.close(descriptor)

    @property
    def fence(self):
        """The lowest number of an attempt that may start here."""
        try:
            with open(self.mark) as handle:
                return int(handle.read().strip() or 0)
        except (OSError, ValueError):
            return 0

    def raise_to(self, number):
        """Raise the fence, never lower it; gives what it is then. Written in place: that takes no room on a disk."""
        descriptor = os.open(self.mark, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            known = self.fence
            if number > known or not os.fstat(descriptor).st_size:
                os.pwrite(descriptor, str(max(number, known)).encode().ljust(24), 0)
            return max(number, known)
        finally:
            os.close(descriptor)

    def take_over(self, key, number, end, patience_s=10.0):
        """Take the lock for an attempt, ending earlier ones that hold it.

        Args:
            key: the attempt that is to hold it.
            number: attempts below it are ended.
            end: is called with the key of an attempt that has to end.
            patience_s: how long their processes may take to end.

        Returns:
            A descriptor; None if this or a later attempt holds it, or an earlier one does not end.
        """
        begun = time.monotonic()
        while True:
            descriptor = self.take(key)
            if descriptor is not None:
                return descriptor
            holder = self.holder()
            waited = time.monotonic() - begun
            if holder and number_of(holder) >= number and (holder == key or waited > _PROBED_S):
                return None
            if holder and number_of(holder) < number:
                end(holder)
            if waited > patience_s:
                return None
            time.sleep(_LOOK_S)


def check_locks(workdir):
    """Refuse a working folder on a file system that knows no locks: nothing would keep two attempts apart there."""
    path = os.path.join(workdir, "locks", ".probe")
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise RequestRefused(
                f"the folder {workdir} is on a file system without locks ({error.strerror}). Name a folder on a "
                "disk of that machine: hydra.launcher.workdir=/var/tmp/xp, or `workdir` of this host"
            ) from None
    finally:
        os.close(descriptor)


def flocked(descriptor, kind):
    """Take a lock at once; False if another process has it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def same_file(descriptor, path):
    """Whether the open file is still the one at that path."""
    try:
        there = os.stat(path)
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def processes_of(key):
    """Processes of this user that carry an attempt's key (or any attempt's of a job: give `JOB-`) in their environment.

    They are found even where their lock file was removed under them. Empty where there is no /proc.
    """
    found, wanted = [], f"{KEY_VARIABLE}={key}".encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as handle:
                words = handle.read().split(b"\0")
            if any(each == wanted or (key.endswith("-") and each.startswith(wanted)) for each in words):
                found.append(int(name))
    return found
