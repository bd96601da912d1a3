"""How much memory this process may still take, from the system's own files: asked before much is allocated."""

import resource
from contextlib import suppress
from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of each version of control groups: where its files are, the limit, the use, and what of it are files' pages that the
system gives up first."""


def available_memory() -> int | None:
    """Bytes that can be allocated: what the machine has left, within the limits of its container and of this process.

    None where nothing says so (not Linux).
    """
    limits = [*_machine(), *_container(), *_process()]
    return max(0, min(limits)) if limits else None


def _machine() -> list[int]:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return [int(line.split()[1]) * 1024]
    return []


def _container() -> list[int]:
    found = []
    for place, limit, usage, files in _CGROUPS:
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            used = int(Path(place, usage).read_text()) - _in_statistics(Path(place, "memory.stat"), files)
            found.append(int(Path(place, limit).read_text()) - used)
    return found


def _in_statistics(path: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0


def _process() -> list[int]:
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text().split()
        used = {resource.RLIMIT_AS: int(pages[0]), resource.RLIMIT_DATA: int(pages[5])}
        size = resource.getpagesize()
        limits = {kind: resource.getrlimit(kind)[0] for kind in used}
        return [limit - used[kind] * size for kind, limit in limits.items() if limit != resource.RLIM_INFINITY]
    return []


def peak_memory() -> int:
    """The most bytes that this process held at a time (resident), since `forget_peak_memory` where that works."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak_memory() -> None:
    """Count the peak anew from what is held now; nothing where the system does not do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
