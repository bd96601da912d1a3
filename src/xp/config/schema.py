"""The shape of every section of a configuration: keys, types, allowed words and bounds.

Types are checked by OmegaConf's structured configs; words and bounds by `xp.config.check`. A value taken from a
finished stage (`${best:stage,metric}`) is an interpolation until the job runs and passes the type check as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from xp.config import words
from xp.config.fields import at_least, between, one_of
from xp.config.merge_methods import MergeMethodSections
from xp.config.task_sections import (
    Attach,
    ClosedLoop,
    Collect,
    Convert,
    Dump,
    ExpertEval,
    Folder,
    Gc,
    Loading,
    OfflineReplay,
    Predict,
    Push,
    Report,
    ReturnsEval,
    SplitSection,
    Status,
)

LOOPS = ("once", "as_published", "self_improve")
"""The options of the group `loop`: training once, or a loop of improvement by the policy's own attempts."""
SUITES = "xp.suites"
"""The entry-point group of simulated suites: `env.name` is the name of one."""
TASKS = ("train", "predict", "eval", "collect", "split", "dump", "merge", "convert", "loop", "report",
    "status", "cancel", "attach", "push", "gc")  # fmt: skip

NO_RUN = ("status", "cancel", "attach", "push", "gc")
"""Tasks that look at runs and make none: they are no job of a sweep. (`report` looks too, but is also a stage.)"""
READ_ONLY_TASKS = ("report", *NO_RUN)
"""Tasks that read runs and have no folder of their own when they are typed alone."""


@dataclass
class Task:
    """What a run does."""

    name: str = one_of(*TASKS)


@dataclass
class Horizon:
    """How many future actions a model is trained on, and asked for."""

    train: int = at_least(1)
    predict: int = at_least(1)
    extend: str = one_of("hold_last", "requery")


@dataclass
class ChunkSize:
    """How many actions one query yields and is executed before the next."""

    steps: int = at_least(1)
    execution: str = one_of(*words.EXECUTIONS)
    delay: int = at_least(0)


@dataclass
class LearningRate:
    """The learning-rate schedule over training steps."""

    schedule: str = one_of(*words.SCHEDULES)
    peak: float = at_least(0.0)
    warmup_steps: int = at_least(0)
    end_factor: float = between(0.0, 1.0)
    extend: str | None = one_of(*words.EXTENSIONS, default=None)
    extensions: Any = None


@dataclass
class ObsDropout:
    """Observation dropout while training: the share of samples whose `observation.state` is hidden."""

    rate: float = between(0.0, 1.0)


@dataclass
class Augment:
    """Image augmentation while training. What a view holds: `xp.config.augmentation`."""

    name: str = MISSING
    views: Any = MISSING


@dataclass
class ActionSpace:
    """What a policy's actions are inside: as in the dataset, or differences to an anchor."""

    type: str = one_of("absolute", "relative")
    anchor: str | None = one_of("a_t0", "last_prefix", "observation.state", default=None)
    exclude: list[str] = MISSING


@dataclass
class Loop:
    """The improvement loop around training."""

    name: str = one_of(*LOOPS)


@dataclass
class ImprovementLoop:
    """Collect with the policy, choose, learn, evaluate; again. The first keys have the published script's names."""

    name: str = one_of(*LOOPS)
    reference_robot: str = MISSING
    num_improvement_loops: int = at_least(1)
    episodes_per_loop: int = at_least(1)
    finetune_steps_per_loop: int = at_least(1)
    max_steps_per_episode: int | None = at_least(1, None)
    context_len: int | None = at_least(1, None)
    batch_size: int = at_least(1)
    lr: float = at_least(0.0)
    envs: int = at_least(1)
    threads: int = at_least(1)
    statistics: str = one_of("reference", "random")
    turn_signs: bool = MISSING
    noise_shift: float = at_least(0.0)
    noise_step: float = at_least(0.0)
    noise_last: float = between(0.0, 1.0)
    select: str = one_of("all", "top_k", "advantage")
    share: float = between(0.0, 1.0)
    temperature: float = at_least(0.0)
    replay: bool = MISSING
    across_attempts: bool = MISSING
    roll_back: bool = MISSING
    patience: int | None = at_least(1, None)
    eval_episodes: int = at_least(2)
    first_seed: int = at_least(0)
    videos: int = at_least(0)
    video_seconds: float = at_least(0.1)


@dataclass
class Merge(Loading):
    """Which checkpoints are merged, by which weights, into what."""

    checkpoints: list[str] = MISSING
    weights: Any = None
    base: str | None = None
    output: str | None = None
    overwrite: bool = False
    objective: str = one_of("loss", "success")
    validation: str | None = None
    per: str = one_of("checkpoint", "group", "layer")
    groups: dict[str, list[str]] = MISSING
    mismatch: str = one_of("error", "intersect", "base")
    statistics: str = one_of("pool", "refuse")
    memory: str = one_of("ram", "stream")
    dtype: str | None = one_of("float32", "bfloat16", "float16", default=None)
    lora_scale: float = 1.0
    midpoints: bool = True


@dataclass
class Data:
    """The dataset, the part of it that is used and the part held out."""

    name: str = MISSING
    root: str | None = None
    repo_id: str | None = None
    revision: str | None = None
    tasks: list[str] | None = None
    exclude_tasks: list[str] | None = None
    val_fraction: float = between(0.0, 0.9)
    split_seed: int = 0
    split: str | None = None
    statistics: str | None = None
    decoder: str = one_of("auto", "torchcodec", "pyav")
    frames: str = one_of("auto", "cache", "stream")
    workers: int | None = at_least(1, None)
    cache_gb: float = at_least(0.0)
    mix: Any = None
    fps: float | None = at_least(0.001, None)
    read: Any = None


@dataclass
class Env:
    """The simulated suite: what every suite is asked. A suite derives its own keys from this (`xp.envs.suite`)."""

    name: str = MISSING
    tasks: list[str] = MISSING
    cameras: dict[str, list[int]] = MISSING
    fps: float = between(1.0, 100.0)
    max_steps: int | None = at_least(1, None)
    environment_state: bool = False


@dataclass
class Experiment:
    """The size of experiments that have two. The parameters of an experiment and of its report stand beside it."""

    scale: str = one_of(*words.SCALES)


@dataclass
class Trainer:
    """The training loop."""

    steps: int = at_least(1)
    batch_size: Any = MISSING
    batch_size_max: int = at_least(1, 256)
    val_every: int | None = at_least(1, None)
    val_windows: int | None = at_least(1, None)
    checkpoint_every: int | None = at_least(1, None)
    keep_checkpoints: int = at_least(1)
    log_every: int = at_least(1)
    ema_decay: float | None = between(0.0, 1.0, None)
    ema_warmup: bool = True
    accumulate: int = at_least(1)
    clip_norm: float | None = at_least(0.0, None)
    weight_decay: float = at_least(0.0)
    freeze: list[str] = MISSING
    weight_decay_params: list[str] | None = None
    best_metric: str = one_of("val_loss", "l1_error", "position_l1", "rotation_l1")
    early_stopping_patience: int | None = at_least(1, None)
    early_stopping_threshold: float = at_least(0.0)
    precision: str = one_of(*words.PRECISIONS)
    accelerator: str = one_of(*words.ACCELERATORS)
    devices: Any = 1
    strategy: str = one_of(*words.STRATEGIES)
    compile: bool = False
    sharding: str = one_of(*words.SHARDINGS)
    overfit_batches: int | None = at_least(1, None)
    profile_steps: int | None = at_least(1, None)
    figures: bool = True
    record_answers: bool = False


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

    seed: int = between(0, 2**32 - 1)
    pretrained_path: str | None = MISSING


SECTIONS: dict[str, type | Mapping[str, type]] = {
    "task": Task,
    "horizon": Horizon,
    "chunk_size": ChunkSize,
    "lr": LearningRate,
    "obs_dropout": ObsDropout,
    "augment": Augment,
    "action_space": ActionSpace,
    "loop": {"once": Loop, "as_published": ImprovementLoop, "self_improve": ImprovementLoop},
    "merge_method": MergeMethodSections(),
    "data": Data,
    "env": Env,
    "experiment": Experiment,
    "trainer": Trainer,
    "predict": Predict,
    "eval": {
        "closed_loop": ClosedLoop,
        "expert": ExpertEval,
        "offline_replay": OfflineReplay,
        "returns": ReturnsEval,
    },
    "collect": Collect,
    "split": SplitSection,
    "dump": Dump,
    "merge": Merge,
    "convert": Convert,
    "report": Report,
    "push": Push,
    "gc": Gc,
    "status": Status,
    "cancel": Folder,
    "attach": Attach,
    "paths": Paths,
}
"""Sections with a fixed shape, or one for each `name`."""
OPEN_SECTIONS = ("env", "experiment")
"""Sections of `SECTIONS` that hold more keys: those of the suite in `env.name`, which tasks that simulate check, and
what an experiment file adds."""
FREE_SECTIONS = ("model", "logger")
"""Sections whose keys belong to model families and loggers."""
OF_EXPERIMENTS = ("stages",)
"""What experiment files add."""
