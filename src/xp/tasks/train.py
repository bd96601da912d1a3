"""`xp task=train`: fine-tune a policy on the training episodes of a dataset, validated on held-out ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xp.checkpoints.run_layout import SPLIT
from xp.config.batch_size import AUTO
from xp.errors import UserError
from xp.json_types import section
from xp.runs import Run, RunFolder
from xp.runs.execution.memory import available_memory
from xp.runs.records.csvlog import number_in
from xp.runs.records.record import now
from xp.tasks._lib.data_source import open_source, plain, statistics_of
from xp.tasks._lib.launch_ranks import launch_ranks
from xp.tasks._lib.padded_windows import refuse_padded
from xp.tasks._lib.reuse import reuse_identical_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from omegaconf import DictConfig

    from xp.data import Batches
    from xp.data.augment import Augment
    from xp.foreign.statistics import DatasetStatistics
    from xp.json_types import JSONObject
    from xp.models.policy import DataSpec, DataTransforms
    from xp.models.trainable import Trainable
    from xp.tasks._lib.data_source import DataSource
    from xp.training.session import Validate


FIT = f"{__name__}:fit"
"""What each process of a training on several devices calls."""
PROBE = f"{__name__}:probe"
"""What the process calls that finds the batch size."""


def run(run: Run) -> None:
    """Build, restore, loop, close. Leaves checkpoints/, best/, final/, figures/, the logs, split.json, summary.json."""
    if reuse_identical_run(run):
        return
    if run.config.trainer.batch_size == AUTO:
        from xp.tasks._lib.batch_size import with_batch_size

        run = with_batch_size(run, PROBE)
    with launch_ranks(run, FIT) as first:
        fit(first)
    if run.config.trainer.get("figures"):
        from xp.report.training_figures import draw_training

        draw_training(RunFolder(run.folder))


def fit(run: Run) -> None:
    """What each of the processes of a training does: of several, rank 0 in the run's folder, the others in passing."""
    from xp.training import train_any

    config, parts = run.config, _parts(run)
    batches = parts.batches(config.trainer.batch_size)
    options = {"trainer": plain(config.trainer), "lr": plain(config.lr), "seed": config.seed}
    train_any(run, parts.trainable, batches, validate=parts.validator(), **options)
    last = _last_validation(run)
    facts = parts.facts(batches, last.get("stopped_early_at", config.trainer.steps))
    run.write_summary({**_summary(run, facts, parts.trainable), **last})
    if "members" in facts:
        shares = {name: section(each, "share") for name, each in section(facts, "members").items()}
        run.record.update(shares=shares)


def probe(run: Run) -> None:
    """What the process of `xp.tasks._lib.batch_probe` does: updates at the batch sizes that it is asked about."""
    from xp.tasks._lib.batch_probe import answer
    from xp.training.frameworks import probe_any

    config, parts = run.config, _parts(run)
    smallest = parts.batches(config.trainer.batch_size)
    with probe_any(run, parts.trainable, smallest, trainer=plain(config.trainer), seed=config.seed) as session:
        answer(session, parts.batches, windows=len(smallest.windows))


@dataclass(frozen=True)
class Parts:
    """What a training is made of, before its batch size counts."""

    trainable: "Trainable"
    batches: "Callable[[int], Batches]"
    """The training data in batches of so many windows."""
    validator: "Callable[[], Validate | None]"
    facts: "Callable[[Any, int], JSONObject]"
    """What the summary says about the data, from what `batches` gave and the number of steps made."""


def _parts(run: Run) -> Parts:
    return _parts_of_one(run) if run.config.data.get("mix") is None else _parts_of_mixture(run)


def _parts_of_one(run: Run) -> Parts:
    """Of a training on one dataset."""
    from xp.models import camera_sizes
    from xp.tasks._lib.loading import shared_frames
    from xp.training.augmentation import with_augmentation

    config = run.config
    source = open_source(config.data, config.paths.cache)
    _check_length(source, config.horizon.train)
    run.log(f"data: {source.split.note()}")
    source.split.save(run.folder / SPLIT)
    statistics = statistics_of(source, config.data.statistics)
    sizes = camera_sizes(plain(config.model), source.dataset.cameras, config.pretrained_path)
    _check_memory(source.spec, sizes, config)
    augment = _augment(config, sizes)
    frames = shared_frames(run, source.dataset, sizes)
    trainable = with_augmentation(_build(run, source.spec, statistics, _transforms(config, source)), augment)
    before, ahead = trainable.spec.window
    _check_length(source, ahead)
    shape: dict[str, Any] = {"history": trainable.spec.history, "horizon": ahead, "before": before}
    return Parts(
        trainable,
        batches=lambda size: _batches(config, source, frames, shape, size),
        validator=lambda: _validator(run, source, frames, shape, statistics),
        facts=lambda batches, steps: source.facts(),
    )


def _parts_of_mixture(run: Run) -> Parts:
    """Of a training on several datasets (`data.mix`), each with its own split, statistics and validation."""
    from xp.models import camera_sizes
    from xp.models.policy import DataTransforms
    from xp.tasks._lib.mixture_data import MixtureSource
    from xp.training.augmentation import with_augmentation

    config = run.config
    source = MixtureSource.open(config)
    source.check_length(config.horizon.train)
    for line in source.lines():
        run.log(line)
    source.save_splits(run.folder)
    sizes = camera_sizes(plain(config.model), source.mixture.cameras, config.pretrained_path)
    _check_memory(source.spec, sizes, config)
    frames = source.frames(run, sizes)
    transforms = DataTransforms(obs_dropout=config.obs_dropout.rate)
    trainable = with_augmentation(_build(run, source.spec, source.statistics, transforms), _augment(config, sizes))
    before, ahead = trainable.spec.window
    source.check_length(ahead)
    shape = {"history": trainable.spec.history, "horizon": ahead, "before": before}
    return Parts(
        trainable,
        batches=lambda size: source.batches(config, frames, shape, size),
        validator=lambda: source.validator(run, frames, shape),
        facts=source.facts,
    )


def warm_up(config: "DictConfig") -> None:
    """Import what a training with this configuration imports: the data, the model's family and its loop."""
    import xp.tasks._lib.loading  # noqa: F401
    from xp.models.families import family_named, import_family
    from xp.training.frameworks import import_loop

    import_family(plain(config.model))
    import_loop(family_named(config.model.family).framework)


def _build(run: Run, data: "DataSpec", statistics: "DatasetStatistics", transforms: "DataTransforms") -> "Trainable":
    from xp.models import build
    from xp.models.families import family_named
    from xp.tasks._lib.loading import use_framework

    config = run.config
    use_framework(config, family_named(config.model.family))
    trainable = build(
        plain(config.model),
        data=data,
        statistics=statistics,
        horizon=config.horizon.train,
        seed=config.seed,
        pretrained_path=config.pretrained_path,
        transforms=transforms,
    )
    for line in _load_lines(trainable):
        run.log(line)
    return trainable


def _transforms(config: "DictConfig", source: "DataSource") -> "DataTransforms":
    """Observation dropout and action space; statistics of action differences are computed when they are asked for."""
    from xp.data import delta_statistics
    from xp.data.relative import excluded_dimensions
    from xp.models.policy import DataTransforms

    dataset = source.dataset
    if config.action_space.type == "relative":
        excluded_dimensions(config.action_space.exclude, dataset.action_names)  # refuses what is in no name
    return DataTransforms(
        obs_dropout=config.obs_dropout.rate,
        action_space=config.action_space.type,
        anchor=config.action_space.anchor,
        exclude=list(config.action_space.exclude),
        action_names=dataset.action_names,
        deltas=lambda lags, anchor, exclude: delta_statistics(dataset, source.split.train, lags, anchor, exclude),
    )


def _augment(config: "DictConfig", sizes: "Mapping[str, tuple[int, int]]") -> "Augment":
    """How pictures of the cameras that the model reads are augmented."""
    from xp.data.augment import Augment

    return Augment.read(plain(config.augment)["views"], list(sizes), f"the model {config.model.name}")


def _load_lines(trainable: "Trainable") -> list[str]:
    report = trainable.load_report
    if not report.source:
        return []
    lines = [f"Started from {report.source}: {len(report.loaded)} weights loaded."]
    for verb, names in (("Freshly initialised", report.initialised), ("Left behind", report.dropped)):
        if names:
            lines.append(f"{verb} ({len(names)}): {', '.join(names)}")
    return lines


def _batches(config: "DictConfig", source: "DataSource", frames: Any, shape: dict[str, Any], size: int) -> "Batches":
    from xp.data import Batches, Windows

    return Batches(
        Windows(source.dataset, frames, source.split.train, **shape),
        batch_size=size,
        seed=config.seed,
        drop_rate=config.obs_dropout.rate,
        augment=bool(config.augment.views),
    )


def _validator(
    run: Run, source: "DataSource", frames: Any, shape: dict[str, Any], statistics: "DatasetStatistics"
) -> "Validate | None":
    from xp.data import Windows, in_order
    from xp.training import make_validator
    from xp.training.validation import ValidationProgress

    config = run.config
    if config.trainer.val_every is None or not source.split.val:
        return None
    held_out = Windows(source.dataset, frames, source.split.val, **shape)
    limit = config.trainer.val_windows
    return make_validator(
        lambda: in_order(held_out, config.trainer.batch_size, limit=limit),
        layout=_layout(source),
        statistics=statistics,
        seed=config.seed,
        progress=ValidationProgress(run, len(held_out) if limit is None else min(limit, len(held_out))),
    )


def _check_length(source: "DataSource", ahead: int) -> None:
    """Refuse windows that reach beyond the end of every training episode: they would be padded without exception."""
    if not source.split.train:
        raise UserError(
            f"No training episodes are left in {source.dataset.root}: see data.tasks and data.val_fraction."
        )
    lengths = source.dataset.episodes.lengths[list(source.split.train)]
    refuse_padded(ahead, lengths, source.dataset.root, start="A", instead="record longer episodes")


def _check_memory(data: "DataSpec", sizes: "Mapping[str, tuple[int, int]]", config: "DictConfig") -> None:
    """Refuse a batch that cannot be held in memory, before anything is allocated: reckoned from its least size."""
    pixels = sum(height * width * 3 for height, width in sizes.values())
    numbers = data.state_dim + config.horizon.train * data.action_dim
    window = pixels + 4 * numbers + 8
    room = available_memory()
    if room is not None and window * config.trainer.batch_size > room:
        raise UserError(
            f"trainer.batch_size={config.trainer.batch_size}: a batch takes at least "
            f"{window * config.trainer.batch_size / 1e9:.3g} GB ({window} bytes a window), and {room / 1e9:.3g} GB of "
            f"memory are free. The largest batch that fits is below trainer.batch_size={max(1, room // window)}"
        )


def _layout(source: "DataSource") -> Any:
    from xp.training import ActionLayout

    dataset = source.dataset
    return ActionLayout.from_names(dataset.action_names, dataset.action_dim, dataset.state_names)


def _summary(run: Run, facts: "JSONObject", trainable: "Trainable") -> dict[str, Any]:
    config = run.config
    return {
        "task": "train",
        "model": config.model.name,
        "training_horizon": config.horizon.train,
        "total_steps": config.trainer.steps,
        "seed": config.seed,
        "data": facts,
        "pretrained": trainable.load_report.source or None,
        "config": run.written_config(),
        "completed_at": now(),
    }


def _last_validation(run: Run) -> dict[str, Any]:
    rows = run.validation_log.rows()
    if not rows:
        return {}
    best = min(rows, key=lambda row: number_in(row, "val_loss"))
    last, steps = int(number_in(rows[-1], "step")), run.config.trainer.steps
    return {
        **({"stopped_early_at": last} if last < steps and run.config.trainer.early_stopping_patience else {}),
        "final_metrics": rows[-1],
        "best_val_loss": number_in(best, "val_loss"),
        "best_step": int(number_in(best, "step")),
    }
