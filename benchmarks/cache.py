"""A cold frame cache of three cameras, asked for by N processes at once.

    python benchmarks/cache.py                     # 1, 2, 10 and 40 processes, twice each
    python benchmarks/cache.py --processes 1,40 --frames 3000 --size 224

Time counts from a barrier that all pass after their imports and after opening the dataset, to the moment at which a
process has mapped all three cameras; a process then keeps them, as a training does. `ratio` is the last process's time
over that of one process alone (the fastest of its repeats). `waiters' CPU` is the CPU time, over the time waited, of
the processes that built nothing.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from xp.data import open_dataset, open_frames

CAMERAS: tuple[str, ...] = ("top", "left", "wrist")


def make(root: Path, frames: int, size: int) -> None:
    """A dataset of three cameras (PNG) in episodes of 100 frames: smooth pictures that move, as cameras see them."""
    from xp.data.lerobot.writer import LeRobotWriter

    names = ["x", "y"]
    cameras = dict.fromkeys(CAMERAS, (size, size))
    wave = np.sin(np.arange(2 * size) / 9)
    with LeRobotWriter(
        root, fps=10, cameras=cameras, state_names=names, action_names=names, robot_type="made up"
    ) as writer:
        for start in range(0, frames, 100):
            moving = [wave[(start + n) % size :][:size] for n in range(min(100, frames - start))]
            pictures = np.stack([127 + 60 * np.add.outer(row, moving[0]) for row in moving]).astype(np.uint8)
            values = np.arange(2 * len(moving), dtype=np.float32).reshape(-1, 2)
            images = dict.fromkeys(CAMERAS, np.repeat(pictures[..., None], 3, -1))
            writer.add_episode("look", images, state=values, action=values)


def together(root: Path, processes: int, size: int) -> list[dict]:
    """What each of `processes` processes on a cold cache took."""
    fork = multiprocessing.get_context("fork")
    barrier, answers, over = fork.Barrier(processes), fork.Queue(), fork.Event()

    def one(cache: str) -> None:
        dataset = open_dataset(root, decoder="pyav")
        _ = dataset.fingerprint
        barrier.wait()
        began, cpu, lines = time.monotonic(), time.process_time(), []
        frames = open_frames(
            dataset, dict.fromkeys(CAMERAS, (size, size)), cache_dir=cache, cache_gb=20,
            log=lines.append, progress=lambda *a, **k: building(lines),
        )  # fmt: skip
        took, cpu = time.monotonic() - began, time.process_time() - cpu
        assert all(len(array) == dataset.num_frames for array in frames.values())
        answers.put({"s": took, "cpu": cpu, "built": lines.count("building")})
        over.wait()

    with tempfile.TemporaryDirectory(dir=os.environ.get("CACHE_DISK")) as cache:
        workers = [fork.Process(target=one, args=(cache,), daemon=True) for _ in range(processes)]
        for worker in workers:
            worker.start()
        found = [answers.get() for _ in workers]
        over.set()
        for worker in workers:
            worker.join()
    return found


def building(lines: list[str]):  # noqa: ANN201 - a context manager that counts nothing
    """Note that this process builds a camera."""
    from contextlib import nullcontext

    lines.append("building")
    return nullcontext()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,10,40")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "dataset"
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(root, asked.frames, asked.size))
        maker.start()  # a process of its own: this one must not have torch's threads when it forks
        maker.join()
        print(f"{asked.frames} frames x 3 cameras of {asked.size} px; load {os.getloadavg()[0]:.1f}")
        print(f"{'processes':>9} {'first':>7} {'last':>7} {'ratio':>6} {'builds':>6} {'waiters CPU':>11}")
        alone = None
        for count in map(int, asked.processes.split(",")):
            runs = [together(root, count, asked.size) for _ in range(asked.repeats)]
            best = min(runs, key=lambda run: max(each["s"] for each in run))
            last = max(each["s"] for each in best)
            alone = alone or last
            idle = [100 * each["cpu"] / each["s"] for each in best if not each["built"]]
            share = f"{statistics.median(idle):.2f} %" if idle else "-"
            builds = sum(each["built"] for each in best)
            first = min(each["s"] for each in best)
            print(f"{count:>9} {first:>6.2f}s {last:>6.2f}s {last / alone:>6.2f} {builds:>6} {share:>11}", flush=True)


if __name__ == "__main__":
    main()
