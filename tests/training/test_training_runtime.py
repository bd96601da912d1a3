"""Compiled programs kept on disk."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

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
    from xp.training.storage import digest_of
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
