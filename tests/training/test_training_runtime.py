"""Compiled programs kept on disk, and memory kept for the next update."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from training_fakes import LR, TinyBatches, final_weights, run_in, tiny_trainable, trainer
    from xp.training.jax import runtime
    runtime.WORTH_KEEPING_S = 0.0
    folder = Path(sys.argv[2])
    runtime.prepare_jax(Path(sys.argv[1]))
    from xp.training.jax.loop import train
    train(run_in(folder), tiny_trainable(), TinyBatches(), validate=None, trainer=trainer(), lr=LR, seed=0)
    from xp.training.digest import digest_of
    print(digest_of(final_weights(folder)))
"""


def test_a_program_from_the_cache_gives_the_same_bytes_as_one_just_compiled(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent))))

    def digest(cache, name):
        command = [sys.executable, str(script), cache, str(tmp_path / name)]
        done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    cache = str(tmp_path / "cache")
    compiled = digest(cache, "a")
    assert [path for path in Path(cache).glob("*/*") if "step" in path.name]
    assert compiled == digest(cache, "b")


FAULTS = """
    import resource
    import jax
    import jax.numpy as jnp
    from pathlib import Path
    from xp.training.jax import runtime
    if {kept}:
        runtime.prepare_jax(Path("cache"))

    @jax.jit
    def call(x):
        sums = jnp.cumsum(x)
        return jnp.sum(sums * jnp.sort(sums[:1000]).sum())

    compiled = call.lower(jnp.ones(6_000_000)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes > 40 << 20, "beyond what glibc can be told to keep by a size"
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        value = float(compiled(jnp.ones(6_000_000)))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(faults, value.hex())
"""


@pytest.mark.slow  # three processes that import JAX
@pytest.mark.skipif(not os.confstr("CS_GNU_LIBC_VERSION"), reason="the allocator of another C library is left alone")
def test_the_kernel_does_not_clear_the_memory_of_every_call_anew(tmp_path):
    """And where memory lies changes no bit; a user's own settings of the allocator stand."""

    def last_call(kept, **variables):
        command = [sys.executable, "-c", textwrap.dedent(FAULTS.format(kept=kept))]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **variables}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        faults, value = done.stdout.split()
        return int(faults), value

    (left, plain), (kept, same), (chosen, _) = (
        last_call(False), last_call(True), last_call(True, MALLOC_ARENA_MAX="4")
    )  # fmt: skip
    assert plain == same
    assert min(left, chosen) > 10_000 and kept < 1_000
