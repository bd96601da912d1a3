"""The shape of every section of a configuration: keys, types, allowed words and bounds.

Types are checked by OmegaConf's structured configs; words and bounds by `xp.config.check`. A value taken from a
finished stage (`${best:stage,metric}`) is an interpolation until the job runs and passes the type check as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from xp.config import words
from xp.config.merge_methods import MergeMethodSections


def _one_of(*words: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"allowed": words})


def _at_least(low: float, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"min": low})


def _between(low: float, high: float, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"min": low, "max": high})


EVALS = ("closed_loop", "offline_replay")
"""What `task=eval` can measure: the options of the group `eval`, each with keys of its own."""
SUITES = "xp.suites"
"""The entry-point group of simulated suites: `env.name` is the name of one."""
TASKS = ("train", "predict", "eval", "collect", "split", "dump", "merge", "report", "status", "cancel", "attach", "gc")

NO_RUN = ("status", "cancel", "attach", "gc")
"""Tasks that look at runs and make none: they are no job of a sweep. (`report` looks too, but is also a stage.)"""
READ_ONLY_TASKS = ("report", *NO_RUN)
"""Tasks that read runs and have no folder of their own when they are typed alone."""


@dataclass
class Task:
    """What a run does."""

    name: str = _one_of(*TASKS)


@dataclass
class Horizon:
    """How many future actions a model is trained on, and asked for."""

    train: int = _at_least(1)
    predict: int = _at_least(1)
    extend: str = _one_of("hold_last", "requery")


@dataclass
class ChunkSize:
    """How many actions one query yields and is executed before the next."""

    steps: int = _at_least(1)
    execution: str = _one_of(*words.EXECUTIONS)


@dataclass
class LearningRate:
    """The learning-rate schedule over training steps."""

    schedule: str = _one_of(*words.SCHEDULES)
    peak: float = _at_least(0.0)
    warmup_steps: int = _at_least(0)
    end_factor: float = _between(0.0, 1.0)


@dataclass
class ObsDropout:
    """Observation dropout while training: the share of samples whose `observation.state` is hidden."""

    rate: float = _between(0.0, 1.0)


@dataclass
class ActionSpace:
    """What a policy's actions are inside: as in the dataset, or differences to an anchor."""

    type: str = _one_of("absolute", "relative")
    anchor: str | None = _one_of("a_t0", "last_prefix", "observation.state", default=None)
    exclude: list[str] = MISSING


@dataclass
class Loop:
    """The improvement loop around training."""

    name: str = _one_of("once")


@dataclass
class Merge:
    """Which checkpoints are merged, by which weights, into what."""

    checkpoints: list[str] = MISSING
    weights: Any = None
    base: str | None = None
    output: str | None = None
    overwrite: bool = False
    objective: str = _one_of("loss", "success")
    validation: str | None = None
    per: str = _one_of("checkpoint", "group", "layer")
    groups: dict[str, list[str]] = MISSING
    mismatch: str = _one_of("error", "intersect", "base")
    statistics: str = _one_of("pool", "refuse")
    memory: str = _one_of("ram", "stream")
    dtype: str | None = _one_of("float32", "bfloat16", "float16", default=None)
    lora_scale: float = 1.0
    midpoints: bool = True


@dataclass
class Data:
    """The dataset, the part of it that is used and the part held out."""

    name: str = MISSING
    root: str | None = None
    tasks: list[str] | None = None
    exclude_tasks: list[str] | None = None
    val_fraction: float = _between(0.0, 0.9)
    split_seed: int = 0
    split: str | None = None
    statistics: str | None = None
    decoder: str = _one_of("auto", "torchcodec", "pyav")
    cache_gb: float = _at_least(0.0)


@dataclass
class Env:
    """The simulated suite: what every suite is asked. A suite derives its own keys from this (`xp.envs.suite`)."""

    name: str = MISSING
    tasks: list[str] = MISSING
    cameras: dict[str, list[int]] = MISSING
    fps: float = _between(1.0, 100.0)
    max_steps: int | None = _at_least(1, None)
    environment_state: bool = False


@dataclass
class Trainer:
    """The training loop."""

    steps: int = _at_least(1)
    batch_size: int = _at_least(1)
    val_every: int | None = _at_least(1, None)
    val_windows: int | None = _at_least(1, None)
    checkpoint_every: int | None = _at_least(1, None)
    keep_checkpoints: int = _at_least(1)
    log_every: int = _at_least(1)
    ema_decay: float | None = _between(0.0, 1.0, None)
    accumulate: int = _at_least(1)
    clip_norm: float | None = _at_least(0.0, None)
    weight_decay: float = _at_least(0.0)
    freeze: list[str] = MISSING
    weight_decay_params: list[str] | None = None
    best_metric: str = _one_of("val_loss", "l1_error", "position_l1", "rotation_l1")
    precision: str = _one_of(*words.PRECISIONS)
    accelerator: str = _one_of(*words.ACCELERATORS)
    devices: Any = 1
    strategy: str = _one_of(*words.STRATEGIES)
    compile: bool = False
    sharding: str = _one_of(*words.SHARDINGS)
    overfit_batches: int | None = _at_least(1, None)
    profile_steps: int | None = _at_least(1, None)
    scale: str = _one_of("small", "full")


@dataclass
class Predict:
    """Scoring a policy on held-out episodes."""

    checkpoint: str | None = None
    data_root: str | None = None
    num_trajectories: int | None = _at_least(1, None)
    batch_size: int = _at_least(1)
    bootstrap: int = _at_least(1)
    validation: str | None = None
    camera_map: Any = None
    unnorm_key: str | None = None


@dataclass
class ClosedLoop:
    """Closed-loop success in simulation."""

    name: str = _one_of(*EVALS)
    checkpoint: str | None = None
    episodes: int = _at_least(1)
    first_seed: int = _at_least(0)
    videos: int = _at_least(0)
    controls: bool = True
    allow_blind: bool = False
    camera_map: Any = None
    unnorm_key: str | None = None


@dataclass
class OfflineReplay:
    """Continuity of chunks on recorded episodes."""

    name: str = _one_of(*EVALS)
    checkpoint: str | None = None
    data_root: str | None = None
    indices_episode: list[int] | None = None
    episodes: int | None = _at_least(1, None)
    modes: list[str] = MISSING
    delay: int = _at_least(0)
    jitter: int = _at_least(0)
    allow_blind: bool = False
    checkpoints: int = _at_least(1)
    figures: int = _at_least(0)
    batch_size: int = _at_least(1)
    bootstrap: int = _at_least(1)
    camera_map: Any = None
    unnorm_key: str | None = None


@dataclass
class Collect:
    """Recording episodes as a dataset."""

    policy: str = "expert"
    episodes: int = _at_least(1)
    first_seed: int = _at_least(0)
    noise: float = _at_least(0.0)
    use_videos: bool = False
    keep_failures: bool = False
    workers: int | None = _at_least(1, None)


@dataclass
class SplitSection:
    """Disjoint subsets of a dataset by episode."""

    split_num: int = _at_least(2)
    seed: int = _at_least(0)
    test_fraction: float = _between(0.0, 0.9)
    export: str | None = None


@dataclass
class Dump:
    """A fixed validation set with fixed random draws."""

    checkpoint: str | None = None
    part: str = _one_of("val", "train")
    allow_training: bool = False
    samples: int | None = _at_least(1, None)
    draws: int = _at_least(1)
    output: str | None = None


@dataclass
class Folder:
    """Where to look."""

    folder: str | None = None


@dataclass
class Gc:
    """What experiments have left on other machines."""

    folder: str | None = None
    remove: bool = False
    data: bool = False


@dataclass
class Status:
    """Where to look, and whether to follow."""

    folder: str | None = None
    live: bool | None = None
    page: int = _at_least(1)
    rows: int | None = _at_least(1, None)


@dataclass
class Attach:
    """Whose log to follow."""

    run: str | None = None
    lines: int = _at_least(0)


@dataclass
class Paths:
    """Where things are written on this machine."""

    outputs: str = MISSING
    multirun: str = MISSING
    datasets: str = MISSING
    cache: str = MISSING


@dataclass
class Top:
    """The keys that stand in no section."""

    seed: int = _between(0, 2**32 - 1)
    pretrained_path: str | None = MISSING


SECTIONS: dict[str, type | Mapping[str, type]] = {
    "task": Task,
    "horizon": Horizon,
    "chunk_size": ChunkSize,
    "lr": LearningRate,
    "obs_dropout": ObsDropout,
    "action_space": ActionSpace,
    "loop": Loop,
    "merge_method": MergeMethodSections(),
    "data": Data,
    "env": Env,
    "trainer": Trainer,
    "predict": Predict,
    "eval": {"closed_loop": ClosedLoop, "offline_replay": OfflineReplay},
    "collect": Collect,
    "split": SplitSection,
    "dump": Dump,
    "merge": Merge,
    "report": Folder,
    "gc": Gc,
    "status": Status,
    "cancel": Folder,
    "attach": Attach,
    "paths": Paths,
}
"""Sections with a fixed shape, or one for each `name`."""
OPEN_SECTIONS = ("env",)
"""Sections of `SECTIONS` that hold more keys: those of the suite in `env.name`, which tasks that simulate check."""
FREE_SECTIONS = ("model", "logger")
"""Sections whose keys belong to model families and loggers."""
OF_EXPERIMENTS = ("experiment", "stages")
"""What experiment files add: parameters of the experiment and of its report, and its stages."""
