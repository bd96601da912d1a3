"""The sections that tasks have of their own: what `task=predict`, `task=collect` and the others are told."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from xp.config import words
from xp.config.fields import at_least, between, one_of


@dataclass
class Loading:
    """How a policy is loaded."""

    camera_map: Any = None
    unnorm_key: str | None = None
    load_options: Any = None


@dataclass
class Loaded(Loading):
    """Which policy, and how it is loaded."""

    checkpoint: str | None = None


@dataclass
class Predict(Loaded):
    """Scoring a policy on held-out episodes."""

    data_root: str | None = None
    num_trajectories: int | None = at_least(1, None)
    batch_size: int = at_least(1)
    bootstrap: int = at_least(1)
    validation: str | None = None


@dataclass
class ClosedLoop(Loaded):
    """Closed-loop success in simulation."""

    name: str = one_of(*words.EVALS)
    episodes: int = at_least(1)
    first_seed: int = at_least(0)
    videos: int = at_least(0)
    workers: int | None = at_least(1, None)
    batch: int = at_least(1)
    envs: int | None = at_least(1, None)
    silence_s: float = at_least(1.0)
    controls: bool = True
    blind: bool = False
    hide_state: bool = False
    allow_blind: bool = False


@dataclass
class ExpertEval:
    """Closed-loop success of a suite's own expert."""

    name: str = one_of(*words.EVALS)
    episodes: int = at_least(1)
    first_seed: int = at_least(0)
    controls: bool = True
    noise: float = at_least(0.0)
    workers: int | None = at_least(1, None)


@dataclass
class ReturnsEval:
    """Returns of a policy that acts by the history of its rewards, or of the suite's expert."""

    name: str = one_of(*words.EVALS)
    checkpoint: str | None = None
    reference: str | None = None
    episodes: int = at_least(2)
    first_seed: int = at_least(0)
    max_steps: int | None = at_least(1, None)
    num_envs: int = at_least(1)
    parallel: int = at_least(1)
    mode: str = one_of("sliding", "exact")
    context_len: int | None = at_least(1, None)


@dataclass
class OfflineReplay(Loaded):
    """Continuity of chunks on recorded episodes."""

    name: str = one_of(*words.EVALS)
    data_root: str | None = None
    indices_episode: list[int] | None = None
    episodes: int | None = at_least(1, None)
    modes: list[str] = MISSING
    delay: int = at_least(0)
    jitter: int = at_least(0)
    allow_blind: bool = False
    checkpoints: int = at_least(1)
    figures: int = at_least(0)
    batch_size: int = at_least(1)
    bootstrap: int = at_least(1)


@dataclass
class Collect(Loading):
    """Recording episodes as a dataset."""

    policy: str = "expert"
    format: str = MISSING
    episodes: int = at_least(1)
    first_seed: int = at_least(0)
    noise: float = at_least(0.0)
    label: str = one_of(*words.LABELS)
    use_videos: bool = False
    keep_failures: bool = False
    workers: int | None = at_least(1, None)
    histories: int | None = at_least(1, None)
    anneal: bool = True
    span: float = at_least(0.0)
    max_steps: int | None = at_least(1, None)


@dataclass
class SplitSection:
    """Disjoint subsets of a dataset by episode."""

    split_num: int = at_least(2)
    seed: int = at_least(0)
    test_fraction: float = between(0.0, 0.9)
    export: str | None = None


@dataclass
class Dump(Loaded):
    """A fixed validation set with fixed random draws."""

    part: str = one_of("val", "train")
    allow_training: bool = False
    samples: int | None = at_least(1, None)
    draws: int = at_least(1)
    output: str | None = None


@dataclass
class Convert:
    """A checkpoint in another program's format."""

    checkpoint: str | None = None
    to: str | None = None
    output: str | None = None
    overwrite: bool = False
    dtype: str | None = one_of("float32", "bfloat16", default=None)
    check: str = one_of("recorded", "made", "none")
    load_options: Any = None


@dataclass
class Folder:
    """Where to look."""

    folder: str | None = None


@dataclass
class Report:
    """What is reported on: a folder of runs, or some runs wherever they lie."""

    folder: str | None = None
    runs: list[str] = MISSING
    base: str | None = None
    output: str | None = None


@dataclass
class Push:
    """What is uploaded to a hub, and where to."""

    run: str | None = None
    dataset: str | None = None
    repo: str | None = None
    branch: str = "main"
    private: bool = False
    license: str | None = None
    evaluations: list[str] = MISSING
    replace: bool = False
    dry_run: bool = False


@dataclass
class Gc(Folder):
    """What experiments have left on other machines."""

    remove: bool = False
    data: bool = False


@dataclass
class Status(Folder):
    """Where to look, and whether to follow."""

    live: bool | None = None
    page: int = at_least(1)
    rows: int | None = at_least(1, None)


@dataclass
class Attach:
    """Whose log to follow."""

    run: str | None = None
    lines: int = at_least(0)
