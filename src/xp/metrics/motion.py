# pyright: strict
"""What predicted actions do with a robot: where it moves, how it turns, what its gripper does; with counts, intervals.

A share of right signs means something only beside what a constant answer reaches: the majority baseline here says, for
each dimension, what is most frequent in the scored steps themselves, so no constant does better. The published
fine-tuning at a lower rate sets its targets at 50% (direction) and 80% (gripper) instead, which are kept beside it.

Letters: N windows, H horizon, A action, P position dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from xp.array_types import Bools, Floats, Ints
from xp.json_types import JSON
from xp.metrics.actions import errors
from xp.metrics.intervals import Sums, sum_by_episode
from xp.metrics.scores import Resampling

STILL = 0.02
"""Movements up to this size (normalised units) have no direction: the threshold of published chunked fine-tuning."""
DIRECTION_TARGET, GRIPPER_TARGET = 0.5, 0.8
"""Published targets of both accuracies."""
Chunks = Float[Floats, "windows horizon action"]
Valid = Bool[Bools, "windows horizon"]


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the dimensions of an action are, and in which units and from where they move."""

    position: Sequence[int]
    rotation: Sequence[int]
    grippers: Mapping[int, float]
    """{gripper dimension: the middle between open and closed}."""
    unit: Float[Floats, " action"]
    """Size of one normalised unit."""
    present: Float[Floats, "windows p"]
    """Where each position dimension is when the window begins; zeros where actions are differences."""


def motion_metrics(
    predictions: Chunks,
    truth: Chunks,
    valid: Valid,
    episode_index: Int[Ints, " windows"],
    meaning: Meaning,
    resampling: Resampling,
) -> dict[str, JSON]:
    """{metric: its value, interval over episodes and count}, with baseline and target where a metric is a share.

    L1 errors are in dataset units. `direction_accuracy` is of position dimensions that move by more than `STILL`; a
    prediction of exactly no movement is wrong. `gripper_accuracy` compares the sides of the middle. What the actions
    have no dimension for is left out, as is what is never scored.
    """
    found: dict[str, JSON] = {}
    dims = {"l1_error": range(truth.shape[-1]), "position_l1": meaning.position, "rotation_l1": meaning.rotation}
    for name, chosen in dims.items():
        if len(chosen):
            error = errors(predictions[..., list(chosen)], truth[..., list(chosen)], valid).mean(-1)
            found[name] = _described(sum_by_episode(error, valid, episode_index), resampling)
    if len(meaning.position):
        unit, here = meaning.unit[list(meaning.position)], meaning.present[:, None, :]
        moves, guesses = ((part[..., list(meaning.position)] - here) / unit for part in (truth, predictions))
        counted = (np.abs(moves) > STILL) & valid[..., None]
        share = _share(moves > 0, guesses > 0, counted, guesses != 0, episode_index)
        _put(found, "direction_accuracy", share, DIRECTION_TARGET, resampling)
    if meaning.grippers:
        dims, middles = list(meaning.grippers), np.array(list(meaning.grippers.values()))
        is_open, guessed = truth[..., dims] > middles, predictions[..., dims] > middles
        counted = np.broadcast_to(valid[..., None], is_open.shape)
        share = _share(is_open, guessed, counted, np.ones_like(is_open), episode_index)
        _put(found, "gripper_accuracy", share, GRIPPER_TARGET, resampling)
    return found


@dataclass(frozen=True)
class _Share:
    own: Sums
    majority: Sums


def _share(
    truth: Bool[Bools, "windows horizon dims"],
    guess: Bool[Bools, "windows horizon dims"],
    counted: Bool[Bools, "windows horizon dims"],
    decided: Bool[Bools, "windows horizon dims"],
    episode_index: Int[Ints, " windows"],
) -> _Share:
    """How often a guess of two is right, and how often the more frequent of both is, dimension by dimension."""
    most = 2 * (truth & counted).sum((0, 1)) > counted.sum((0, 1))
    return _Share(
        _sums((truth == guess) & decided, counted, episode_index), _sums(truth == most, counted, episode_index)
    )


def _sums(
    right: Bool[Bools, "windows horizon dims"],
    counted: Bool[Bools, "windows horizon dims"],
    episode_index: Int[Ints, " windows"],
) -> Sums:
    episodes, group = np.unique(episode_index, return_inverse=True)
    sums, counts = np.zeros(len(episodes)), np.zeros(len(episodes))
    np.add.at(sums, group, (right & counted).sum((1, 2)))
    np.add.at(counts, group, counted.sum((1, 2)))
    return Sums(episodes=episodes, sums=sums, counts=counts, windows=len(right))


def _put(found: dict[str, JSON], name: str, share: _Share, target: float, resampling: Resampling) -> None:
    """Describe a share beside the majority's; nothing where nothing was counted."""
    if not share.own.counts.sum():
        return
    difference = resampling.difference(share.own, share.majority)
    low = difference["low"]
    found[name] = {
        **_described(share.own, resampling),
        "target": target,
        "majority": _described(share.majority, resampling),
        "above_majority": {"value": difference["value"], "low": low, "high": difference["high"]},
        "beats_majority": None if low is None else low > 0,
    }


def _described(data: Sums, resampling: Resampling) -> dict[str, JSON]:
    ends = resampling.bootstrap(data)
    low, high = ends["low"], ends["high"]
    return {
        "value": float(data.mean()),
        "low": low if isinstance(low, float) else None,
        "high": high if isinstance(high, float) else None,
        "count": int(data.counts.sum()),
        "num_episodes": len(data.episodes),
    }


def lines(metrics: JSON) -> list[str]:
    """A line for each share of `motion_metrics`, for a log."""
    found: list[str] = []
    for name, entry in metrics.items() if isinstance(metrics, Mapping) else ():
        majority = entry.get("majority") if isinstance(entry, Mapping) else None
        if isinstance(entry, Mapping) and isinstance(majority, Mapping):
            found.append(
                f"{name} {_text(entry)} of {entry['count']}; always the majority {_text(majority)}, target "
                f"{entry['target']}"
            )
    return found


def _text(entry: Mapping[str, JSON]) -> str:
    value, low, high = (entry[name] for name in ("value", "low", "high"))
    ends = f" [{low:.3f}, {high:.3f}]" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{value:.3f}{ends}"
