"""A mixture of datasets to train on: opened as `data.mix` says, its frames, batches, validation and shares."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from xp.checkpoints.run_layout import SPLITS
from xp.config.mixture import read_mix
from xp.data.batches import Ordered
from xp.data.frame_source import CameraFrames, FrameSource
from xp.data.mixture.batches import MixtureBatches, unused_mixture
from xp.data.mixture.members import Member, Mixture, open_mixture
from xp.data.mixture.statistics import mixture_statistics
from xp.data.mixture.windows import Frames, MixtureWindows
from xp.foreign.statistics import DatasetStatistics
from xp.json_types import JSONObject
from xp.models.policy import DataSpec, MemberSpec, Policy
from xp.runs import Run
from xp.tasks._lib.data_source import DataSource
from xp.tasks._lib.loading import shared_frames
from xp.tasks._lib.padded_windows import refuse_padded
from xp.training.action_layout import ActionLayout
from xp.training.validation import METRICS, Validate, ValidationProgress, make_validator

_COMMON = ("val_loss", "direction_accuracy", "gripper_accuracy")
"""Metrics that mean something over several datasets: those without units of their own."""

type Shape = Mapping[str, int | None]
"""`history`, `horizon` and `before` of windows."""


@dataclass(frozen=True)
class MixtureSource:
    """The datasets of `data.mix`."""

    mixture: Mixture

    @classmethod
    def open(cls, config: DictConfig) -> "MixtureSource":
        """Open and split them.

        Raises:
            UserError: as `open_mixture`.
        """
        data = config.data
        plain: Any = OmegaConf.to_container(data.mix, resolve=True)
        mixture = open_mixture(
            read_mix(plain),
            fps=data.fps,
            val_fraction=data.val_fraction,
            split_seed=data.split_seed,
            decoder=data.decoder,
            cache_dir=Path(config.paths.cache) / "columns",
            cache_gb=data.cache_gb,
        )
        return cls(mixture)

    @property
    def spec(self) -> DataSpec:
        """What the mixture offers to a model."""
        mixture = self.mixture
        return DataSpec(
            cameras=mixture.cameras,
            action_dim=mixture.action_dim,
            state_dim=mixture.state_dim,
            environment_dim=mixture.environment_dim,
            fps=mixture.fps,
            tasks=tuple(dict.fromkeys(task for each in mixture.members for task in each.dataset.tasks)),
            members=tuple(
                MemberSpec(
                    name=each.name,
                    action_dim=each.dataset.action_dim,
                    state_dim=each.dataset.state_dim,
                    cameras=dict(each.fed),
                )
                for each in mixture.members
            ),
        )

    @cached_property
    def statistics(self) -> DatasetStatistics:
        """Of the training episodes of each dataset."""
        return mixture_statistics(self.mixture)

    def save_splits(self, folder: Path) -> None:
        """Write the manifest of each dataset."""
        (folder / SPLITS).mkdir(parents=True, exist_ok=True)
        for member in self.mixture.members:
            member.split.save(folder / SPLITS / f"{member.name}.json")

    def lines(self) -> list[str]:
        """What the log says about the data."""
        found = [
            f"data: {each.name}: weight {each.options.weight:g}, {each.split.note()}"
            + (f"; every {each.stride}. row ({each.options.resample})" if each.stride > 1 else "")
            for each in self.mixture.members
        ]
        dark = [
            f"data: {each.name} has no camera {', '.join(missing)}: black there, masked where the model can"
            for each in self.mixture.members
            if (missing := [name for name in self.mixture.cameras if name not in each.fed])
        ]
        return [*found, *dark, *(f"data: {line}" for line in unused_mixture(self.mixture))]

    def check_length(self, ahead: int) -> None:
        """Refuse windows that reach beyond the end of every training episode of a dataset.

        Raises:
            UserError: which dataset, and how long its episodes are.
        """
        for member in self.mixture.members:
            lengths = -(-member.dataset.episodes.lengths[list(member.split.train)] // member.stride)
            start = f"{member.options.key}: a"
            refuse_padded(ahead, lengths, member.dataset.root, start=start, instead="leave it out")

    def frames(self, run: Run, sizes: Mapping[str, tuple[int, int]]) -> Frames:
        """The frames of each dataset at the model's sizes, as `data.frames` says."""
        return {member.name: _frames_of(run, member, sizes) for member in self.mixture.members}

    def batches(self, config: DictConfig, frames: Frames, shape: Shape, batch_size: int) -> MixtureBatches:
        """The training data in batches of so many windows."""
        train = {member.name: member.split.train for member in self.mixture.members}
        return MixtureBatches(
            self._windows(frames, train, shape),
            batch_size=batch_size,
            seed=config.seed,
            drop_rate=config.obs_dropout.rate,
            augment=bool(config.augment.views),
        )

    def validator(self, run: Run, frames: Frames, shape: Shape) -> Validate | None:
        """Validation of each dataset by its own statistics and names, and over all; None where nothing is held out."""
        config = run.config
        held = {each.name: each.split.val for each in self.mixture.members if each.split.val}
        if config.trainer.val_every is None or not held:
            return None
        windows = self._windows(frames, held, shape)
        limit = config.trainer.val_windows
        chosen = {name: _spread(windows.of_member(name), limit and -(-limit // len(held))) for name in held}
        by_name = {
            member.name: self._validator_of(run, member, windows, chosen[member.name])
            for member in self.mixture.members
            if member.name in held
        }
        weights = {each.name: each.options.weight for each in self.mixture.members if each.name in held}

        def validate(policy: Policy, step: int) -> dict[str, float]:
            scores = {name: one(policy, step) for name, one in by_name.items()}
            each = {f"{name}/{key}": value for name, found in scores.items() for key, value in found.items()}
            return {**overall(scores, weights), **each}

        return validate

    def _validator_of(
        self, run: Run, member: Member, windows: MixtureWindows, chosen: np.ndarray
    ) -> Callable[[Policy, int], dict[str, float]]:
        data = member.dataset
        assert "members" in self.statistics
        own = self.statistics["members"][member.name]
        return make_validator(
            lambda: Ordered(windows, run.config.trainer.batch_size, chosen),
            layout=ActionLayout.from_names(data.action_names, data.action_dim, data.state_names),
            statistics={"action": own["action"], "proprio": own["proprio"]},
            seed=run.config.seed,
            progress=ValidationProgress(run, len(chosen)),
            action_dim=data.action_dim,
        )

    def _windows(self, frames: Frames, episodes: Mapping[str, tuple[int, ...]], shape: Shape) -> MixtureWindows:
        history, horizon, before = shape["history"], shape["horizon"], shape["before"]
        assert history is not None and horizon is not None
        return MixtureWindows(self.mixture, frames, episodes, history=history, horizon=horizon, before=before)

    def facts(self, batches: MixtureBatches, steps: int) -> JSONObject:
        """What a summary says about the data: of each dataset its content, its episodes and its share."""
        shares = batches.shares(steps)
        return {
            "fps": self.mixture.fps,
            "members": {
                each.name: {
                    **DataSource(each.dataset, each.split).facts(),
                    "weight": each.options.weight,
                    "dropped_episodes": int((each.weights == 0).sum()),
                    "share": shares[each.name],
                }
                for each in self.mixture.members
            },
        }


def _frames_of(run: Run, member: Member, sizes: Mapping[str, tuple[int, int]]) -> CameraFrames:
    """The frames of a dataset by the mixture's cameras, opened together: they share one budget and one pool.

    One of its cameras that is wanted at two sizes is opened for the second apart.
    """
    wanted = {name: (member.fed[name], sizes[name]) for name in sizes if name in member.fed}
    opened: dict[tuple[str, tuple[int, int]], np.ndarray | FrameSource] = {}
    while left := [pair for pair in wanted.values() if pair not in opened]:
        together = dict(left)
        frames = shared_frames(run, member.dataset, together)
        opened |= {(camera, size): frames[camera] for camera, size in together.items()}
    return {name: opened[pair] for name, pair in wanted.items()}


def overall(scores: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> dict[str, float]:
    """The scores over all datasets, in the proportion of their weights: of those that have units in common, else NaN.

    Args:
        scores: {dataset: metrics}.
        weights: {dataset: weight}, above 0.
    """
    found: dict[str, float] = {name: math.nan for name in METRICS}
    for key in _COMMON:
        known = {name: each[key] for name, each in scores.items() if math.isfinite(each[key])}
        if known:
            found[key] = float(np.average(list(known.values()), weights=[weights[name] for name in known]))
    return found


def _spread(numbers: np.ndarray, limit: int | None) -> np.ndarray:
    """All of the numbers, or `limit` of them spread evenly."""
    count = len(numbers) if limit is None else min(limit, len(numbers))
    return numbers[np.arange(count) * len(numbers) // count]
