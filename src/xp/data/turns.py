"""One of many processes computes what all of them want; another takes over if it dies, across machines too.

A process has its turn while it holds an exclusive file lock and its claim stands: a small file beside the lock that
says who holds it and is touched every two seconds. On one machine the lock alone decides: the system drops it when its
holder dies, however it dies, so a claim of this machine whose lock is free belongs to nobody. On a disk that several
machines share, locks may reach no further than one of them (NFS with local_lock, Lustre with localflock, BeeGFS): a
claim of another machine is believed until it has not been touched for `PATIENCE_S` of *this* process's own clock, so
clocks that differ do not matter. Two holders at once are then possible only if one was silent for that long: who
computes writes to a name of its own and renames, so the worst is work done twice.
"""

import functools
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from xp.data.locks import FileLock, cannot_write

BEAT_S = 2.0
PATIENCE_S = 20.0
"""How long another machine's claim may stand untouched; ten beats, as a busy file server forgets some."""
POLL_S = 0.15
"""How often who waits looks: about 50 microseconds of work each, a twentieth of a hundredth of a core."""


class Turn:
    """The turn to compute what belongs to `path` (without suffix): `<path>.build.lock` and `<path>.claim`.

    Args:
        path: A name in the cache folder.
        what: The cache it belongs to, for messages.
        machine: Names this machine since its boot; another one in tests.
    """

    def __init__(self, path: Path, what: str = "frame cache", machine: str | None = None) -> None:
        self._lock = FileLock(path.with_name(f"{path.name}.build.lock"), what)
        self._claim = path.with_name(f"{path.name}.claim")
        self._what = what
        self._machine = machine or this_machine()
        self._mine = b""
        self._descriptor: int | None = None
        self._ended = threading.Event()
        self._seen: tuple[bytes, int] | None = None
        self._since = 0.0

    def take(self) -> bool:
        """Take the turn if nobody has it; never waits.

        Raises:
            UserError: the folder cannot be written or locked.
        """
        if self._others() or not self._lock.acquire(blocking=False):
            return False
        try:
            if self._others() or not self._stake():
                self._lock.release()
                return False
        except OSError as error:
            self.release()
            raise cannot_write(self._claim.parent, error, self._what) from error
        return True

    def release(self) -> None:
        """End the turn; does nothing if it is not held."""
        if self._descriptor is not None:
            self._ended.set()
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
            if self.held:
                self._claim.unlink(missing_ok=True)
        self._lock.release()

    @property
    def held(self) -> bool:
        """Whether the claim still stands: another machine may have taken it from a process that was silent too long."""
        return bool(self._mine) and _read(self._claim)[0] == self._mine

    def _others(self) -> bool:
        """Whether another machine's claim stands and is kept alive, as far as this process has seen."""
        seen = _read(self._claim)
        if not seen[0] or seen[0].startswith(self._machine.encode() + b" "):
            return False
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since < PATIENCE_S

    def _stake(self) -> bool:
        """Put our claim in place of one that belongs to nobody; False if another machine was faster."""
        self._clear()
        name = secrets.token_hex(8)
        self._mine = f"{self._machine} {socket.gethostname()} {os.getpid()} {name}\n".encode()
        draft = self._claim.with_name(f"{self._claim.name}.{name}")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._descriptor = descriptor
        try:
            os.write(descriptor, self._mine)
            _appear(draft, self._claim)
        except FileExistsError:
            os.close(descriptor)
            self._descriptor = None
            return False
        finally:
            draft.unlink(missing_ok=True)
        self._ended = threading.Event()
        copy = os.dup(descriptor)  # the turn's own may be closed, and its number given to another file, at any time
        threading.Thread(target=_beat, args=(copy, self._ended), name="claim", daemon=True).start()
        return True

    def _clear(self) -> None:
        """Remove the claim that was looked at, and no newer one: it is moved aside and put back if it is another."""
        judged = _read(self._claim)
        aside = self._claim.with_name(f"{self._claim.name}.{secrets.token_hex(4)}")
        try:
            self._claim.rename(aside)
        except FileNotFoundError:
            return
        if _read(aside)[0] != judged[0]:
            with suppress(FileExistsError):
                _appear(aside, self._claim)
        aside.unlink(missing_ok=True)


def _appear(draft: Path, claim: Path) -> None:
    """The claim appears with its content; FileExistsError where one is there."""
    try:
        os.link(draft, claim)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the lock alone keeps two from doing this at once
        if claim.exists():
            raise FileExistsError(claim) from None
        draft.rename(claim)


def _beat(descriptor: int, ended: threading.Event) -> None:
    try:
        while not ended.wait(BEAT_S):
            with suppress(OSError):
                os.utime(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[bytes, int]:
    """Content and time of change; opened anew, so that a network file system asks its server. Nothing: b""."""
    try:
        with path.open("rb") as file:
            return file.read(512), os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return b"", 0


@functools.cache
def this_machine() -> str:
    """Names this machine since its boot; processes with the same name share a kernel, and so its locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
