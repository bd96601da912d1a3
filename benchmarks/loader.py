"""Training samples per CPU-second: xp's cached batches against LeRobot 0.6.1's DataLoader on the same datasets.

    python benchmarks/loader.py                    # three datasets: image and video mode at 2x96px, video at 2x480x640
    python benchmarks/loader.py --samples 64 --only video96
    python benchmarks/loader.py --streamed         # videos: stream, cache, LeRobot with 0 and 2 workers, a cold epoch

A sample is what chunk-30 behaviour cloning reads: two camera frames, a state, 30 actions with their padding flags.
LeRobot: `LeRobotDataset` with `delta_timestamps` for the actions, `EpisodeAwareSampler` shuffled, `num_workers=0`,
`return_uint8=True` (its cheapest). xp: `Batches(...).at(step)` from the frame cache at the stored resolution. Both
deliver batches; "first epoch" counts the building of the cache into xp's first pass (later passes, and other runs on
the machine, find it built). Time is the process's own CPU time, so other load on the machine does not count. Where
torchcodec loads (or can be lent PyAV's FFmpeg libraries: `--lend-ffmpeg`, the default) LeRobot uses it, its fastest
decoder; xp decodes with PyAV.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHUNK = 30
SETS = {
    "image96": {"size": (96, 96), "use_videos": False, "episodes": 8, "target": 300},
    "video96": {"size": (96, 96), "use_videos": True, "episodes": 8, "target": 300},
    "video480": {"size": (480, 640), "use_videos": True, "episodes": 4, "target": 50},
}


def environment_with_ffmpeg(folder: Path) -> dict[str, str] | None:
    """An environment in which torchcodec finds FFmpeg: PyAV's bundled libraries under their usual names.

    None where PyAV bundles none (then torchcodec loads only if the system has FFmpeg). The variable must be set before
    python starts, so use it for a subprocess.
    """
    import av

    bundled = Path(av.__file__).parent.parent / "av.libs"
    links = 0
    for library in bundled.glob("lib*.so*"):
        plain = re.fullmatch(r"(lib(?:av|sw)\w+)-[0-9a-f]+\.so\.(\d+)[\d.]*", library.name)
        if plain:
            link = folder / f"{plain[1]}.so.{plain[2]}"
            link.unlink(missing_ok=True)
            link.symlink_to(library)
            links += 1
    if not links:
        return None
    paths = [str(folder), str(bundled), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(path for path in paths if path)}


def moving_pictures(rng: np.random.Generator, size: tuple[int, int], frames: int) -> np.ndarray:
    """[N, h, w, 3] uint8: a still textured background, light sensor noise, moving blocks; not a codec's worst case."""
    h, w = size
    y, x = np.mgrid[:h, :w]
    base = 128 + 60 * np.sin(x / 17 + rng.uniform(0, 6)) + 50 * np.cos(y / 13 + rng.uniform(0, 6))
    scene = np.repeat(base[None, :, :, None], frames, 0).repeat(3, 3) + rng.normal(0, 2, (frames, h, w, 1))
    for _ in range(3):
        colour, start, speed = rng.uniform(0, 255, 3), rng.uniform(0, 1, 2), rng.uniform(-0.01, 0.01, 2)
        for i in range(frames):
            top, left = ((start + speed * i) % 0.8 * (h, w)).astype(int)
            scene[i, top : top + h // 6, left : left + w // 6] = colour
    return scene.clip(0, 255).astype(np.uint8)


def make_dataset(root: Path, spec: dict, frames: int) -> None:
    """A LeRobotDataset with two cameras, written through LeRobot's API."""
    from xp.data.lerobot.writer import LeRobotWriter

    rng = np.random.default_rng(0)
    names = [f"joint_{i}" for i in range(6)]
    cameras = {"top": spec["size"], "wrist": spec["size"]}
    with LeRobotWriter(
        root,
        fps=30,
        cameras=cameras,
        state_names=names,
        action_names=names,
        robot_type="bench",
        use_videos=spec["use_videos"],
    ) as writer:
        for episode in range(spec["episodes"]):
            images = {name: moving_pictures(rng, size, frames) for name, size in cameras.items()}
            walk = rng.normal(0, 0.05, (frames, 6)).cumsum(axis=0)
            writer.add_episode(f"task {episode % 2}", images, walk, walk + 0.01)


def dataset_of(name: str, options: argparse.Namespace) -> Path:
    """The folder of a dataset, made if it is not there."""
    spec = {**SETS[name], **({"episodes": options.episodes} if options.episodes else {})}
    root = options.folder / f"{name}_{spec['episodes']}x{options.frames}"
    if not root.exists():
        print(f"writing {name}: {spec['episodes']} episodes of {options.frames} frames", file=sys.stderr)
        make_dataset(root, spec, options.frames)
    return root


def cpu_ms(step, samples: int) -> tuple[float, float]:
    """CPU and wall milliseconds per sample of calling `step` until `samples` samples have been delivered."""
    step()  # warm: files opened, decoders made, pages read
    cpu, wall, done = time.process_time(), time.perf_counter(), 0
    while done < samples:
        done += step()
    return (time.process_time() - cpu) * 1e3 / done, (time.perf_counter() - wall) * 1e3 / done


def lerobot_step(root: Path, batch_size: int, backend: str):
    """LeRobot's DataLoader as its own training script builds it."""
    import torch
    from lerobot.datasets import EpisodeAwareSampler
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    deltas = {"action": [i / 30 for i in range(CHUNK)]}
    dataset = LeRobotDataset(
        "local/bench", root=root, delta_timestamps=deltas, video_backend=backend, return_uint8=True
    )
    episodes = dataset.meta.episodes
    assert episodes is not None
    sampler = EpisodeAwareSampler(episodes["dataset_from_index"], episodes["dataset_to_index"], shuffle=True, seed=0)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=0, drop_last=True)
    batches = iter(loader)

    def step() -> int:
        nonlocal batches
        try:
            batch = next(batches)
        except StopIteration:
            batches = iter(loader)
            batch = next(batches)
        assert batch["action"].shape[1] == CHUNK
        return len(batch["action"])

    return step


def xp_step(root: Path, batch_size: int, cache: Path):
    """xp's batches, with the time it took to build the cache."""
    from xp.data import Batches, Windows, open_dataset, open_frames

    dataset = open_dataset(root)
    sizes = {name: shape[:2] for name, shape in dataset.cameras.items()}
    began = time.process_time()
    frames = open_frames(dataset, sizes, cache_dir=cache, cache_gb=20)
    build = (time.process_time() - began) * 1e3 / dataset.num_frames
    windows = Windows(dataset, frames, range(dataset.episodes.num), history=1, horizon=CHUNK)
    batches = Batches(windows, batch_size=batch_size, seed=0)
    count = iter(range(10**9))

    def step() -> int:
        return len(batches.at(next(count))["action"])

    return step, build


def measure(name: str, options: argparse.Namespace, backend: str) -> dict:
    """One row of the table."""
    spec, root = SETS[name], dataset_of(name, options)
    with tempfile.TemporaryDirectory(dir=options.folder) as cache:  # a fresh one, so that building is measured too
        ours, build = xp_step(root, options.batch_size, Path(cache))
        xp_cpu, xp_wall = cpu_ms(ours, 200 * options.samples)
        del ours
    le_cpu, le_wall = cpu_ms(lerobot_step(root, options.batch_size, backend), options.samples)
    decoder = backend if spec["use_videos"] else "png"
    return {
        "dataset": name,
        "decoder": decoder,
        "lerobot_cpu_ms": le_cpu,
        "xp_cpu_ms": xp_cpu,
        "ratio": le_cpu / xp_cpu,
        "target": spec["target"],
        "lerobot_wall_ms": le_wall,
        "xp_wall_ms": xp_wall,
        "build_cpu_ms_per_frame": build,
        "first_epoch_ratio": le_cpu / (xp_cpu + build),
    }


def measure_streamed(name: str, options: argparse.Namespace, backend: str) -> list[dict]:
    """A row for each side of `loader_streamed`, one after the other, each in a process of its own."""
    import loader_streamed  # beside this file, which tests load by its path

    root = dataset_of(name, options)
    rows = []
    for side in loader_streamed.SIDES:
        if side.startswith("lance") and importlib.util.find_spec("lerobot_lancedb") is None:
            continue
        command = [sys.executable, loader_streamed.__file__, side, root, "--decoder", backend, "--cold"]
        command += ["--batch-size", options.batch_size, "--samples", options.samples, "--scratch", options.folder]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"dataset": name, "side": side, **json.loads(done.stdout.splitlines()[-1])})
    return rows


def show_streamed(rows: list[dict], options: argparse.Namespace) -> None:
    """The table of `--streamed`."""
    plain = {row["dataset"]: row["cold_cpu_ms"] for row in rows if row["side"] == "plain"}
    print("random access to videos, batch", options.batch_size, "- CPU of all processes")
    line = "{:10} {:10} {:>14} {:>15} {:>22} {:>10} {:>10}"
    print(line.format("dataset", "side", "CPU ms/sample", "wall ms/sample", "cold epoch, ms/frame", "of plain", "MB"))
    for row in rows:
        cells = [f"{row[key]:.2f}" if row.get(key) is not None else "" for key in ("cpu_ms", "wall_ms", "cold_cpu_ms")]
        ratio = f"{row['cold_cpu_ms'] / plain[row['dataset']]:.2f}x"
        print(line.format(row["dataset"], row["side"], *cells, ratio, f"{row.get('mb', 0):.0f}"))


def show(rows: list[dict], options: argparse.Namespace) -> None:
    """The table, the versions and the machine."""
    versions = {p: importlib.metadata.version(p) for p in ("lerobot", "torch", "torchcodec", "av", "datasets", "numpy")}
    print("CPU ms per sample (2 cameras, 30 actions), batch", options.batch_size)
    line = "{:10} {:11} {:>9} {:>9} {:>7} {:>7} {:6} {:>8} {:>9}"
    print(line.format("dataset", "decoder", "LeRobot", "xp", "ratio", "target", "", "build", "1st epoch"))
    for row in rows:
        ratio, target = row["ratio"], row["target"]
        cells = [f"{row['lerobot_cpu_ms']:.3f}", f"{row['xp_cpu_ms']:.5f}", f"{ratio:.0f}x", f">={target}x"]
        cells += ["met" if ratio >= target else "MISSED", f"{row['build_cpu_ms_per_frame']:.2f}"]
        print(line.format(row["dataset"], row["decoder"], *cells, f"{row['first_epoch_ratio']:.1f}x"))
    print("versions:", ", ".join(f"{name} {version}" for name, version in versions.items()))
    print(
        "machine:", platform.platform(), "|", cpu_name(), "|", os.cpu_count(), "cores | python", sys.version.split()[0]
    )


def cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256, help="samples to take from LeRobot (xp: 200 times as many)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--frames", type=int, default=120, help="frames per episode")
    parser.add_argument("--episodes", type=int, help="default: 8, and 4 of the large pictures")
    parser.add_argument("--only", choices=SETS, nargs="+", default=list(SETS))
    parser.add_argument("--folder", type=Path, help="where datasets are made, and stay; default: a temporary folder")
    parser.add_argument("--lend-ffmpeg", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--streamed", action="store_true", help="compare random access to videos instead")
    parser.add_argument("--decoder", choices=("torchcodec", "pyav"), help="LeRobot's; torchcodec where it loads")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.disable(logging.WARNING)
    if options.lend_ffmpeg and "XP_BENCH_LENT" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            environment = environment_with_ffmpeg(Path(folder))
            if environment is not None:
                command = [sys.executable, __file__, *sys.argv[1:]]
                raise SystemExit(
                    subprocess.run(command, env={**environment, "XP_BENCH_LENT": "1"}, check=False).returncode
                )
    from xp.data.lerobot.video import torchcodec_loads

    backend = options.decoder or ("torchcodec" if torchcodec_loads() else "pyav")
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = options.folder or Path(scratch)
        if options.streamed:
            videos = [name for name in options.only if SETS[name]["use_videos"]]
            rows = [row for name in videos for row in measure_streamed(name, options, backend)]
            show_streamed(rows, options)
        else:
            rows = [measure(name, options, backend) for name in options.only]
            show(rows, options)
    if options.json:
        from xp import atomic

        atomic.write_json(options.json, rows)


if __name__ == "__main__":
    main()
