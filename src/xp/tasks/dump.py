"""`xp task=dump`: held-out windows with fixed random draws in one file, on which every set of weights is measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xp.errors import UserError
from xp.runs import Run
from xp.tasks._lib.data_source import DataSource, eval_source, held_out, open_source, plain
from xp.tasks._lib.loading import fit_cameras, fit_dimensions, load, shared_frames

if TYPE_CHECKING:
    from omegaconf import DictConfig

OUTPUT = "dump.safetensors"


@dataclass(frozen=True)
class Shape:
    """What the windows look like: T observed steps, H actions, and each camera's size (height, width) in pixels."""

    history: int
    horizon: int
    cameras: dict[str, tuple[int, int]]


def run(run: Run) -> None:
    """Leaves the dump at dump.output, or dump.safetensors in the run's folder, and what is in it in summary.json."""
    from xp.data import Windows, in_order
    from xp.data.dumps import draws, refuse_suffix, save_dump
    from xp.data.space import try_out, writing

    config = run.config
    path = Path(config.dump.output or run.folder / OUTPUT)
    refuse_suffix(path)
    _refuse_existing(run, path)
    try_out(path, "dump.output=FILE")
    source, how = _source(config)
    shape = _shape(config, source)
    episodes = _episodes(config, source)
    frames = shared_frames(run, source.dataset, shape.cameras)
    windows = Windows(source.dataset, frames, episodes, history=shape.history, horizon=shape.horizon)
    ordered = in_order(windows, 256, limit=config.dump.samples)
    arrays = _joined(run, ordered)
    action_dim = source.dataset.action_dim
    arrays |= draws(config.seed, len(ordered.indices), config.dump.draws, shape.history, shape.horizon, action_dim)
    tasks = tuple(source.dataset.tasks)
    arrays["task_index"] = np.array([tasks.index(text) for text in arrays.pop("task")], np.int64)
    about = _about(config, source, episodes, how)
    with writing(path, "dump.output=FILE"):
        save_dump(path, arrays, tasks, about)
    size = {"windows": len(ordered.indices), "draws": config.dump.draws, "bytes": path.stat().st_size}
    run.write_summary({"task": "dump", "path": str(path), **size, **about})
    run.log(f"{size['windows']} windows of {len(episodes)} episodes ({how}): {path} ({size['bytes'] / 1e6:.1f} MB)")


def _refuse_existing(run: Run, path: Path) -> None:
    inside = path.resolve().is_relative_to(run.folder.resolve())
    if path.exists() and not (run.resuming or inside):
        raise UserError(f"dump.output={path} exists already and is left as it is. Give another name, or remove it.")


def _source(config: "DictConfig") -> tuple[DataSource, str]:
    if config.dump.checkpoint is None:
        return open_source(config.data, config.paths.cache), f"{config.dump.part} episodes of data.root"
    # A checkpoint's own dataset counts, unless a manifest says which dataset is meant.
    root = config.data.root if config.data.split is not None else None
    found = eval_source(config.dump.checkpoint, config.data, root, config.paths.cache)
    return found or (open_source(config.data, config.paths.cache), f"{config.dump.part} episodes of data.root")


def _shape(config: "DictConfig", source: DataSource) -> Shape:
    """The windows that a policy takes, or that the chosen model would take."""
    from xp.models import camera_sizes

    if config.dump.checkpoint is None:
        sizes = camera_sizes(plain(config.model), source.dataset.cameras)
        return Shape(int(config.model.get("history") or 1), config.horizon.train, sizes)
    policy = load(config, config.dump.checkpoint, config.dump)
    fit_dimensions(policy, source.dataset, f"dump.checkpoint={config.dump.checkpoint}", "data.root")
    fit_cameras(policy, list(source.dataset.cameras), f"the dataset {source.dataset.root}", "dump.camera_map")
    spec = policy.spec
    sizes = {camera: (height, width) for camera, (height, width, _) in spec.cameras.items()}
    return Shape(spec.history, spec.horizon, sizes)


def _episodes(config: "DictConfig", source: DataSource) -> tuple[int, ...]:
    return source.split.train if config.dump.part == "train" else held_out(source, None)


def _joined(run: Run, ordered: Any) -> dict[str, Any]:
    """All windows as one batch."""
    parts: list[dict[str, Any]] = []
    with run.progress(len(ordered.indices), "dumping", unit="window") as bar:
        for batch in ordered:
            parts.append(batch)
            bar.advance(len(batch["action"]))
    return {
        name: sum((part[name] for part in parts), []) if name == "task" else np.concatenate([p[name] for p in parts])
        for name in parts[0]
    }


def _about(config: "DictConfig", source: DataSource, episodes: tuple[int, ...], how: str) -> dict[str, Any]:
    return {
        "dataset": str(source.dataset.root),
        "fingerprint": source.dataset.fingerprint,
        "part": config.dump.part,
        "held_out": how,
        "episodes": list(episodes),
        "seed": config.seed,
    }
