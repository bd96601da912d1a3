"""How much memory this process may still take, from the system's own files: asked before much is allocated."""

import resource
from contextlib import suppress
from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


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
    for limit, usage in _CGROUPS:
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            found.append(int(Path(limit).read_text()) - int(Path(usage).read_text()))
    return found


def _process() -> list[int]:
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text().split()
        used = {resource.RLIMIT_AS: int(pages[0]), resource.RLIMIT_DATA: int(pages[5])}
        size = resource.getpagesize()
        limits = {kind: resource.getrlimit(kind)[0] for kind in used}
        return [limit - used[kind] * size for kind, limit in limits.items() if limit != resource.RLIM_INFINITY]
    return []
