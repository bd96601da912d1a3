"""A folder of octo-base-1.5 at its full size with random weights, and what loading it costs; run as a process.

python octo_full_size.py FOLDER      # writes FOLDER where it is not there, loads it, prints figures as JSON
"""

import dataclasses
import json
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np
import yaml

from xp.models import load_policy
from xp.models.octo.assembly import assemble
from xp.models.octo.cameras import resolve_slots
from xp.models.octo.io.folder import write_folder
from xp.models.octo.io.sidecar import new_sidecar
from xp.models.octo.options import OctoOptions
from xp.models.policy import DataSpec

CONF = Path(__file__).parents[2] / "conf/model"
REPEATS = 5


def released(size: str):
    """What stands around the weights of octo-{small,base}-1.5: two cameras, window 2, diffusion over 4 x 7 actions."""
    cfg = yaml.safe_load((CONF / f"octo_{size}.yaml").read_text())
    changed = {"head": {"type": "diffusion", "pooling": "mean"}, "repeat_task_tokens": True, "history": 2}
    options = OctoOptions.from_config({**cfg, **changed})
    data = DataSpec(cameras={"top": (256, 256, 3), "wrist": (128, 128, 3)}, action_dim=7, state_dim=0, fps=5)
    statistics = {"action": {"mean": [0.0] * 7, "std": [1.0] * 7}}
    return assemble(new_sidecar(options, data, resolve_slots(options.slots, data.cameras), statistics, 4, 0))


def write(folder: Path, size: str = "base", step: int = 300_000) -> None:
    """Every weight of the released tree, drawn from N(0, 0.02^2)."""
    assembly = released(size)
    rng = np.random.default_rng(0)
    shapes = assembly.network.shapes(assembly.example_inputs())
    weights = {path: 0.02 * rng.standard_normal(leaf.shape, np.float32) for path, leaf in shapes.items()}
    write_folder(folder, dataclasses.replace(assembly.sidecar, step=step), weights)


def peak() -> int:
    """The most memory this process has held since it runs this program, in bytes.

    `ru_maxrss` would count the parent too: Linux carries it over fork and exec, so it begins at what the process that
    started this one has held, e.g. pytest after other tests. The kernel's high-water mark begins anew with exec.
    """
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return kilobytes * 1024


def floor(file: Path, arrays: dict[str, np.ndarray]) -> float:
    """Seconds to read the file and to put its arrays on the device, and nothing else."""
    start = time.perf_counter()
    data = file.read_bytes()
    on_device = jax.block_until_ready(jax.device_put(arrays))
    seconds = time.perf_counter() - start
    assert len(data) and on_device
    return seconds


def main(folder: Path) -> None:
    if not folder.is_dir():
        write(folder)
    (file,) = folder.glob("*/default/checkpoint")
    jax.block_until_ready(jax.device_put(np.ones(3)))
    before, loads, floors = resident(), [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        policy = load_policy(folder)
        jax.block_until_ready(policy._weights)
        loads.append(time.perf_counter() - start)
        arrays = policy.weights()
        del policy
        if not floors:
            growth = peak() - before
        floors.append(floor(file, {path: np.array(leaf) for path, leaf in arrays.items()}))
        del arrays
    print(json.dumps({"load_s": loads, "floor_s": floors, "peak_bytes": growth, "file_bytes": file.stat().st_size}))


def resident() -> int:
    """Memory this process holds now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
