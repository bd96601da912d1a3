"""Prepares JAX: same program, same bits; compiled programs and freed memory are kept for whoever needs them next."""

import ctypes
import hashlib
import os
import platform
from pathlib import Path

import jax

WORTH_KEEPING_S = 0.5
"""Programs that compile faster than this are not kept."""

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1
"""Names of `mallopt`'s parameters in glibc's malloc.h."""
_CHOICES = (
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)
"""Variables by which a user tells glibc's allocator the same things."""


def prepare_jax(cache: Path) -> None:
    """Keep compiled programs below `cache`, let a GPU use deterministic operations only, and keep freed memory.

    A sweep compiles the same few programs over and over; the cache gives back the very program that was compiled first,
    so it cannot change a result. Without deterministic operations a GPU adds in the order its threads arrive, and a
    resumed run would differ in its last bits; a choice made in XLA_FLAGS by the user stands. The flags are read when
    JAX first touches a device: call this before. Safe to call again; safe to delete the folder.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".strip()
    jax.config.update("jax_compilation_cache_dir", str(cache.absolute() / processor()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING_S)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed, instead of giving it back to the system at once.

    XLA takes the buffer of an update's intermediate results from the allocator at each call and frees it afterwards
    (85 MB for octo_tiny with a batch of 64). glibc maps blocks of more than 32 MB anew each time, whatever its
    threshold is set to, and blocks of a thread's own arena too; so each update the kernel clears every page of it
    again, a fifth of the CPU time of a small network. Here every block comes from one heap that does not shrink. Only
    where memory lies changes, so no number does.

    Returns:
        Whether it was done: not where the user has chosen settings of the allocator, nor with another C library.
    """
    if any(name in os.environ for name in _CHOICES):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
    return all([mallopt(name, value) == 1 for name, value in settings])


def processor() -> str:
    """A name for this kind of processor: a program compiled for one may use instructions that another lacks.

    Machines of a cluster that share a cache folder so keep to programs of their own kind.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    features = {line for line in lines if line.startswith(("model name", "flags", "Features"))} or set(lines[:1])
    return f"{platform.machine()}-{hashlib.sha256('|'.join(sorted(features)).encode()).hexdigest()[:8]}"
