"""How JAX runs here: compiled programs kept on disk, shared by all runs of this machine."""

from pathlib import Path

import jax

WORTH_KEEPING_S = 0.5
"""Programs that compile faster than this are not kept."""


def prepare_jax(cache: Path) -> None:
    """Keep compiled programs in `cache`; safe to call again, safe to delete the folder.

    A sweep compiles the same few programs over and over; the cache gives back the very program that was compiled
    first, so it cannot change a result.
    """
    jax.config.update("jax_compilation_cache_dir", str(cache.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING_S)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
