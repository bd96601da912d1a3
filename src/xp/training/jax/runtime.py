"""How JAX runs here: the same program gives the same bits, and compiled programs are kept for all runs of a machine."""

import hashlib
import os
import platform
from pathlib import Path

import jax

WORTH_KEEPING_S = 0.5
"""Programs that compile faster than this are not kept."""

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def prepare_jax(cache: Path) -> None:
    """Keep compiled programs below `cache`, and let a GPU use deterministic operations only.

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
