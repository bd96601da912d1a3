"""Marks of what other machines map of a cache on a shared disk, where file locks may work within one machine only.

A process that maps an entry of such a disk touches it every minute; an entry touched within the last five minutes is in
use. Both times are the file server's: "now" is read from a file that was just written. On a local disk the locks say it
all, and nothing is touched.
"""

import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TOUCH_S = 60.0
IN_USE_S = 300.0
_SHARED = (
    "nfs", "lustre", "beegfs", "gpfs", "ceph", "fuse", "9p", "cifs", "smb", "glusterfs", "afs", "panfs", "wekafs",
    "virtiofs", "ocfs2", "gfs2", "orangefs", "pvfs2",
)  # fmt: skip

_mapped: dict[Path, int] = {}
_guard = threading.RLock()  # a finalizer may leave while this thread is in here
_toucher: threading.Thread | None = None


def keep(entry: Path) -> Callable[[], None]:
    """Keep `entry` marked as in use until what is returned is called."""
    global _toucher
    if not on_shared_disk(entry.parent):
        return lambda: None
    with _guard:
        _mapped[entry] = _mapped.get(entry, 0) + 1
        if _toucher is None or not _toucher.is_alive():
            _toucher = threading.Thread(target=_touch, name="cache-in-use", daemon=True)
            _toucher.start()

    def leave() -> None:
        with _guard:
            _mapped[entry] = _mapped.get(entry, 1) - 1
            if _mapped[entry] <= 0:
                del _mapped[entry]

    return leave


def in_use_elsewhere(entry: Path) -> bool:
    """Whether another machine may be using an entry, by the time of its last touch on the server's own clock."""
    if not on_shared_disk(entry.parent):
        return False
    probe = entry.with_name(f".clock.{secrets.token_hex(4)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - entry.stat().st_mtime < IN_USE_S
    except OSError:
        return True
    finally:
        with suppress(OSError):
            probe.unlink()


def on_shared_disk(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a folder lies on a file system that other machines may mount, by the longest mount point above it."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    real = str(folder.resolve())
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = fields[4].replace("\\040", " ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind.startswith(_SHARED)


def _touch() -> None:
    while True:
        time.sleep(TOUCH_S)
        with _guard:
            entries = list(_mapped)
        for entry in entries:
            with suppress(OSError):
                os.utime(entry)
