"""The datasets of a mixture, opened, split, weighed and brought to one rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from xp.config.mixture import MemberOptions, fed_cameras, mixed_cameras
from xp.data.dataset import Dataset, open_dataset
from xp.data.mixture.rates import at_rate, common_rate, stride_of
from xp.data.mixture.weights import episode_weights
from xp.data.splits import Split, split_episodes
from xp.errors import UserError, some


@dataclass(frozen=True, eq=False)
class Member:
    """A dataset of a mixture."""

    options: MemberOptions
    dataset: Dataset
    """With its actions as a step of the mixture does them."""
    split: Split
    """Without the episodes of weight 0."""
    stride: int
    """Rows of the dataset from one step of the mixture to the next."""
    weights: Float[np.ndarray, " episodes"]
    """Of all episodes."""
    fed: Mapping[str, str]
    """{camera of the mixture: the dataset's camera that feeds it}."""

    @property
    def name(self) -> str:
        """What the mixture calls it."""
        return self.options.name


@dataclass(frozen=True, eq=False)
class Mixture:
    """Several datasets as one to train on. Letters: A and S are the widths of the widest."""

    members: tuple[Member, ...]
    """By name; each of a weight above 0."""
    fps: float
    """Steps per second that all are brought to."""

    @cached_property
    def cameras(self) -> dict[str, tuple[int, int, int]]:
        """{camera of the mixture: (height, width, 3) in pixels}, as the first dataset stores it that has one."""
        own = {member.name: tuple(member.dataset.cameras) for member in self.members}
        names = mixed_cameras([member.options for member in self.members], own)
        found: dict[str, tuple[int, int, int]] = {}
        for member in self.members:
            for name, camera in member.fed.items():
                found.setdefault(name, member.dataset.cameras[camera])
        return {name: found[name] for name in names}

    @property
    def action_dim(self) -> int:
        """A."""
        return max(member.dataset.action_dim for member in self.members)

    @property
    def state_dim(self) -> int:
        """S; 0 where no dataset has a state."""
        return max(member.dataset.state_dim for member in self.members)

    @property
    def environment_dim(self) -> int:
        """Dimensions of the environment state, where all datasets have one of the same width; else 0."""
        dims = {member.dataset.environment_dim for member in self.members}
        return dims.pop() if len(dims) == 1 else 0


def open_mixture(
    members: Sequence[MemberOptions],
    *,
    fps: float | None,
    val_fraction: float,
    split_seed: int,
    decoder: str = "auto",
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
) -> Mixture:
    """Open the datasets of a mixture.

    Args:
        members: as `xp.config.mixture.read_mix` gives them.
        fps: the common rate; None for that which all have.
        val_fraction: share of each task's episodes held out, where a member says nothing else.
        split_seed: which episodes are held out.
        decoder: as of `open_dataset`; also the others.
        cache_dir: see there.
        cache_gb: see there.

    Raises:
        UserError: as `open_dataset` and `split_episodes`; rates that cannot be brought together; episodes that one
            member holds out and another, of the same dataset, trains on.
    """
    opened = {
        each.name: open_dataset(
            each.root,
            decoder=decoder,
            cache_dir=cache_dir,
            cache_gb=cache_gb,
            read=each.read,
            read_key=f"{each.key}.read",
        )
        for each in members
    }
    rate = common_rate(opened, fps)
    found = [_member(each, opened[each.name], rate, val_fraction, split_seed) for each in members]
    _refuse_leaks(found)
    return Mixture(tuple(found), rate)


def _member(options: MemberOptions, dataset: Dataset, fps: float, val_fraction: float, seed: int) -> Member:
    stride = stride_of(options, dataset, fps)
    weights = episode_weights(options, dataset)
    split = _split(options, dataset, val_fraction, seed)
    kept = replace(
        split,
        train=tuple(episode for episode in split.train if weights[episode] > 0),
        val=tuple(episode for episode in split.val if weights[episode] > 0),
    )
    if not kept.train:
        raise UserError(
            f"{options.key}: no training episode of {dataset.root} has a weight above 0 ({split.note()}). Type "
            f"{options.key}.weight=0 to leave the dataset out."
        )
    fed = fed_cameras(options, list(dataset.cameras))
    return Member(options, at_rate(options, dataset, stride), kept, stride, weights, fed)


def _split(options: MemberOptions, dataset: Dataset, val_fraction: float, seed: int) -> Split:
    if options.split is not None:
        split = Split.load(options.split)
        split.check(dataset)
        return split
    split = split_episodes(
        dataset,
        val_fraction=val_fraction if options.val_fraction is None else options.val_fraction,
        seed=seed,
        tasks=options.tasks,
        exclude_tasks=options.exclude_tasks,
    )
    split.check_held_out(dataset.root)
    return split


def _refuse_leaks(members: Sequence[Member]) -> None:
    """One dataset may come twice (other tasks, other weights), but nobody trains on what another holds out of it."""
    for first in members:
        for second in members:
            if first is second or first.dataset.fingerprint != second.dataset.fingerprint:
                continue
            both = sorted(set(first.split.train) & set(second.split.val))
            if both:
                raise UserError(
                    f"{first.options.key} and {second.options.key} are the same dataset, and the first trains on "
                    f"episodes that the second holds out ({some(map(str, both))}): a score on them would be too good. "
                    "Give both the same val_fraction, or one manifest (split)."
                )
