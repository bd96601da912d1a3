"""What opening a large dataset takes in the first and in later processes of a machine: CPU seconds and private memory.

A LeRobotDataset without cameras is generated (EPISODES of 200 frames, 16 actions and 16 states; 50,000 episodes are 10
million frames, 1.7 GB of numbers) and opened three times: in a process that decodes, in one that maps while the first
still lives, and without a cache. LeRobot's own opening of the same folder is the side to compare with.

    python benchmarks/dataset_memory.py --episodes=50000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

LENGTH, WIDTH, PER_FILE = 200, 16, 2000
"""Frames of an episode, dimensions of action and state, episodes in a data file."""
_REPORT = """
import json, time
from pathlib import Path
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
private = sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
peak = next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
taken = {"cpu": time.process_time() - began, "wall": time.perf_counter() - at}
print(json.dumps({**taken, "private": private / 1024, "peak": peak / 1024}), flush=True)
"""
_XP = """
import sys, time
import numpy, pyarrow.parquet, xp.data.dataset, xp.data.lerobot.reader
began, at = time.process_time(), time.perf_counter()
dataset = xp.data.dataset.open_dataset(sys.argv[1], cache_dir=sys.argv[2] or None)
dataset.fingerprint
"""
_LEROBOT = """
import sys, time
from lerobot.datasets.lerobot_dataset import LeRobotDataset
began, at = time.process_time(), time.perf_counter()
dataset = LeRobotDataset("local/many", root=sys.argv[1])
dataset[0]
"""
_WAIT = "sys.stdin.readline()\n"


def main() -> None:
    """Print a line for each side, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=5000)
    parser.add_argument("--length", type=int, default=LENGTH, help="frames of an episode")
    parser.add_argument("--no-lerobot", action="store_true", help="leave LeRobot's own opening out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "many", str(Path(folder) / "cache")
        write(root, given.episodes, given.length)
        print(f"{given.episodes:,} episodes, {given.episodes * given.length:,} frames")
        first, process = measured(_XP, root, cache)
        show("first process, decodes", first)
        second, _ = measured(_XP, root, cache, stay=False)
        show("second process, maps", second)
        process.communicate("\n")
        alone, _ = measured(_XP, root, "", stay=False)
        show("without a cache", alone)
        print(f"second / without a cache: CPU {ratio(second, alone, 'cpu')}, private {ratio(second, alone, 'private')}")
        if not given.no_lerobot:
            theirs, _ = measured(_LEROBOT, root, "", stay=False)
            show("LeRobotDataset", theirs)
            print(f"second / LeRobot: CPU {ratio(second, theirs, 'cpu')}, private {ratio(second, theirs, 'private')}")


def measured(code: str, root: Path, cache: str, *, stay: bool = True) -> tuple[dict[str, float], subprocess.Popen[str]]:
    """Run one side in a process of its own; it lives on, with what it has opened, if it is to `stay`."""
    command = [sys.executable, "-c", code + _REPORT + (_WAIT if stay else ""), str(root), cache]
    # LeRobot's libraries keep a copy of their own: beside the dataset, where it goes with it.
    around = {**os.environ, "HF_HOME": str(root.parent / "hf"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=around)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not stay:
        process.communicate()
    if not line:
        raise SystemExit(f"a side failed (exit code {process.wait()})")
    return json.loads(line), process


def show(name: str, found: dict[str, float]) -> None:
    """One line."""
    memory = f"{found['private']:8.0f} MB private {found['peak']:8.0f} MB at most"
    print(f"{name:<24} {found['cpu']:7.2f} s CPU {found['wall']:7.2f} s {memory}", flush=True)


def ratio(one: dict[str, float], other: dict[str, float], key: str) -> str:
    """One side's number as a part of the other's."""
    return f"{one[key] / max(other[key], 1e-9):.3f}"


def write(root: Path, episodes: int, length: int) -> None:
    """A dataset of `episodes` without cameras, by tables."""
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    rng, listed = np.random.default_rng(0), []
    for number, begin in enumerate(range(0, episodes, PER_FILE)):
        inside = np.arange(begin, min(begin + PER_FILE, episodes))
        rows = np.arange(begin * length, (inside[-1] + 1) * length)
        vectors = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(rng.random(len(rows) * WIDTH, np.float32)), WIDTH)
            for name in ("action", "observation.state")
        }
        numbers = {"episode_index": rows // length, "frame_index": rows % length, "index": rows}
        numbers |= {"task_index": np.zeros(len(rows), np.int64), "timestamp": np.float32(rows % length / 10)}
        table = pa.table({**vectors, **numbers})
        pq.write_table(table, root / "data" / "chunk-000" / f"file-{number:03d}.parquet", compression="snappy")
        listed.append(np.stack([inside, np.full(len(inside), number)], axis=1))
    episode, file = np.concatenate(listed).T
    described = {
        "episode_index": episode, "length": np.full(episodes, length), "tasks": [["reach"]] * episodes,
        "data/chunk_index": np.zeros(episodes, np.int64), "data/file_index": file,
        "dataset_from_index": episode * length, "dataset_to_index": (episode + 1) * length,
    }  # fmt: skip
    pq.write_table(pa.table(described), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    tasks = pd.DataFrame(
        {"task_index": [0]}, index=pd.Index(["reach"], name="task")
    )  # LeRobot reads texts as the index
    tasks.to_parquet(root / "meta" / "tasks.parquet")
    vector = {"dtype": "float32", "shape": [WIDTH], "names": None}
    whole = {name: {"dtype": "int64", "shape": [1], "names": None}
             for name in ("episode_index", "frame_index", "index", "task_index")}  # fmt: skip
    info = {
        "codebase_version": "v3.0", "fps": 10, "robot_type": "made up", "splits": {"train": f"0:{episodes}"},
        "features": {"action": vector, "observation.state": vector, **whole,
                     "timestamp": {"dtype": "float32", "shape": [1], "names": None}},
        "total_episodes": episodes, "total_frames": episodes * length, "total_tasks": 1, "chunks_size": 1000,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None,
        "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
    }  # fmt: skip
    (root / "meta" / "info.json").write_text(json.dumps(info))
    (root / "meta" / "stats.json").write_text("{}")


if __name__ == "__main__":
    main()
