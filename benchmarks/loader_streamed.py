"""The sides of `benchmarks/loader.py --streamed`, each a process of its own: random access to video, and a cold epoch.

    python benchmarks/loader_streamed.py xp-stream ROOT --batch-size 8 --samples 64

prints a line of JSON: CPU and wall milliseconds per sample once batches flow (`cpu_ms`, `wall_ms`), what the first
epoch costs from cold per frame of the dataset (`cold_cpu_ms`, with opening, indexing or building, and the start of
workers, without imports; null where it was not asked for), and memory (`mb`: private and shared pages of the process
and all of its workers, each page once, at the end). CPU time is that of the process and its workers together.
`plain` decodes each video once, in order, without a dataset: what `cold_cpu_ms` is compared with.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHUNK = 30
SIDES = ("plain", "xp-cache", "xp-stream", "lerobot-0", "lerobot-2", "lance-0", "lance-2")


def family() -> list[int]:
    """This process and all that come from it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_seconds() -> float:
    """CPU seconds of the family, and of its members that have ended."""
    ticks = 0
    for pid in family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def megabytes() -> float:
    """Proportional set size of the family."""
    total = 0
    for pid in family():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1000


def xp_batches(root: Path, given: argparse.Namespace, mode: str, scratch: Path) -> tuple[Iterator, int]:
    """Batches of xp in one mode, and how many samples an epoch has."""
    from xp.data import Batches, Windows, open_dataset
    from xp.data.frames import frames_of

    dataset = open_dataset(root)
    sizes = {name: shape[:2] for name, shape in dataset.cameras.items()}
    frames = frames_of(dataset, sizes, mode=mode, workers=given.workers, cache_dir=scratch, cache_gb=50)
    windows = Windows(dataset, frames, range(dataset.episodes.num), history=1, horizon=CHUNK)
    batches = Batches(windows, batch_size=given.batch_size, seed=0)
    return (batches.at(step) for step in range(10**9)), dataset.num_frames


def lerobot_batches(root: Path, given: argparse.Namespace, workers: int) -> tuple[Iterator, int]:
    """LeRobot's DataLoader as its training script builds it."""
    import torch
    from lerobot.datasets import EpisodeAwareSampler
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    deltas = {"action": [i / 30 for i in range(CHUNK)]}
    dataset = LeRobotDataset(
        "local/bench", root=root, delta_timestamps=deltas, video_backend=given.decoder, return_uint8=True
    )
    episodes = dataset.meta.episodes
    assert episodes is not None
    sampler = EpisodeAwareSampler(episodes["dataset_from_index"], episodes["dataset_to_index"], shuffle=True, seed=0)
    more = {"multiprocessing_context": "spawn", "persistent_workers": True, "prefetch_factor": 4} if workers else {}
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=given.batch_size, sampler=sampler, num_workers=workers, drop_last=True, **more
    )
    return (batch for _ in range(10**9) for batch in loader), len(dataset)


def lance_copy(root: Path) -> Path:
    """The folder beside a dataset with its Lance tables, made if it is not there."""
    copy = root.with_name(f"{root.name}-lance")
    if not copy.exists():
        command = [sys.executable, "-m", "lerobot_lancedb.convert", "--root", str(root), "--out", str(copy)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return copy


def lance_batches(root: Path, given: argparse.Namespace, workers: int) -> tuple[Iterator, int]:
    """LeRobot's DataLoader over a Lance copy of the dataset, by the package lerobot-lancedb."""
    import torch
    from lerobot_lancedb import LanceDBDataset

    deltas = {"action": [i / 30 for i in range(CHUNK)]}
    dataset = LanceDBDataset(root=lance_copy(root), delta_timestamps=deltas, return_uint8=True)
    more = {"multiprocessing_context": "spawn", "persistent_workers": True, "prefetch_factor": 4} if workers else {}
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=given.batch_size, shuffle=True, num_workers=workers, drop_last=True, **more
    )
    return (batch for _ in range(10**9) for batch in loader), len(dataset)


def decode_once(root: Path) -> None:
    """Every video of the dataset decoded to RGB, once and in order, by PyAV alone."""
    import av

    for path in sorted((root / "videos").rglob("*.mp4")):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = 2
            for frame in container.decode(stream):
                frame.to_ndarray(format="rgb24")


def imported(side: str, given: argparse.Namespace) -> Callable[[Path], tuple[Iterator, int]]:
    """What opens a side, its imports done."""
    kind, _, detail = side.partition("-")
    if kind == "xp":
        import av.video.reformatter  # noqa: F401
        import PIL.Image  # noqa: F401
        import pyarrow.compute  # noqa: F401
        import pyarrow.parquet  # noqa: F401

        import xp.data.batches  # noqa: F401
        import xp.data.frames  # noqa: F401
        import xp.data.lerobot.frame_reader  # noqa: F401
        import xp.data.lerobot.frames  # noqa: F401
        import xp.data.lerobot.locators  # noqa: F401
        import xp.data.lerobot.reader  # noqa: F401
        from xp.config.dataset_facts import find_format

        find_format(given.root)  # looks at what is installed
        return lambda scratch: xp_batches(given.root, given, detail, scratch)
    import torch  # noqa: F401
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: F401

    if kind == "lance":
        import lerobot_lancedb  # noqa: F401

        lance_copy(given.root)
    opened = lerobot_batches if kind == "lerobot" else lance_batches
    return lambda scratch: opened(given.root, given, int(detail))


def measured(side: str, given: argparse.Namespace) -> dict[str, float | None]:
    """The numbers of one side."""
    if side == "plain":
        import av  # noqa: F401

        began = cpu_seconds()
        decode_once(given.root)
        info = json.loads((given.root / "meta" / "info.json").read_text(encoding="utf-8"))
        return {"cold_cpu_ms": (cpu_seconds() - began) * 1e3 / info["total_frames"]}
    opened = imported(side, given)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        began = cpu_seconds()
        batches, count = opened(Path(scratch))
        cold = None
        if given.cold:
            for _ in range(count // given.batch_size):
                next(batches)
            cold = (cpu_seconds() - began) * 1e3 / count
        else:
            next(batches)
        began, wall, done = cpu_seconds(), time.perf_counter(), 0
        while done < given.samples:
            done += len(next(batches)["action"])
        cpu, wall = (cpu_seconds() - began) * 1e3 / done, (time.perf_counter() - wall) * 1e3 / done
        return {"cpu_ms": cpu, "wall_ms": wall, "cold_cpu_ms": cold, "mb": megabytes()}


def main() -> None:
    """Measure one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("root", type=Path)
    parser.add_argument("--decoder", default="pyav", help="LeRobot's")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2, help="of xp's stream")
    parser.add_argument("--cold", action="store_true", help="count a first epoch, too")
    parser.add_argument("--scratch", type=Path, help="where caches are made")
    given = parser.parse_args()
    print(json.dumps(measured(given.side, given)), flush=True)
    os._exit(0)  # loaders with persistent workers take their time to end


if __name__ == "__main__":
    main()
