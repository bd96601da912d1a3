"""Learning-rate schedules: plain functions of the number of finished steps.

The rate is worked out on the host and handed to the compiled step as a number, so changing it never recompiles.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from xp.config.words import SCHEDULES
from xp.errors import UserError, did_you_mean, join_names

Schedule = Callable[[int], float]
"""Number of finished steps (0 for the first update) -> learning rate of the next update."""


def constant(step: int, *, peak: float, warmup_steps: int = 0) -> float:
    """`peak` at every step, after an optional linear warm-up (a constant schedule is usually given no warm-up)."""
    return linear_warmup(step, peak=peak, warmup_steps=warmup_steps)


def linear_warmup(step: int, *, peak: float, warmup_steps: int) -> float:
    """Linear 0 -> `peak` over `warmup_steps`, then constant.

    The rule Octo's fine-tuning scripts use (optax `join_schedules` of `linear_schedule` and `constant_schedule`): the
    very first update has rate 0, update number `warmup_steps` (counted from 0) is the first at `peak`.
    """
    return peak if step >= warmup_steps else peak * step / warmup_steps


def cosine(step: int, *, peak: float, warmup_steps: int, steps: int, end_factor: float) -> float:
    """Linear 0 -> `peak` over `warmup_steps`, then half a cosine down to `end_factor * peak` at `steps`.

    SGDR's annealing without restarts (Loshchilov & Hutter 2017, eq. 5), the same numbers as optax's
    `warmup_cosine_decay_schedule(0, peak, warmup_steps, steps, end_factor * peak)`. Constant from `steps` on.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (end_factor + (1.0 - end_factor) * 0.5 * (1.0 + math.cos(math.pi * done)))


def make_schedule(lr: Mapping[str, Any], steps: int) -> Schedule:
    """Build the schedule that a `lr` section describes.

    Args:
        lr: `schedule` (constant | cosine | linear_warmup), `peak` (rate), `warmup_steps` (steps), `end_factor` (share
            of the peak that a cosine ends at).
        steps: number of training steps, where a cosine ends.

    Raises:
        UserError: an unknown schedule, a peak that is not a positive number, a negative warm-up, an end outside 0..1.
    """
    name, peak = str(lr["schedule"]), _peak(lr["peak"])
    warmup, end = int(lr.get("warmup_steps") or 0), float(lr.get("end_factor") or 0.0)
    if not 0.0 <= end <= 1.0:
        raise UserError(
            f"lr.end_factor={end} is not a share of the peak: give a number from 0 to 1, e.g. lr.end_factor=0.1"
        )
    if warmup < 0:
        raise UserError(f"lr.warmup_steps={warmup} is negative: give 0 for no warm-up, e.g. lr.warmup_steps=100")
    if name == "constant":
        return lambda step: constant(step, peak=peak, warmup_steps=warmup)
    if name == "linear_warmup":
        return lambda step: linear_warmup(step, peak=peak, warmup_steps=warmup)
    if name == "cosine":
        return lambda step: cosine(step, peak=peak, warmup_steps=warmup, steps=steps, end_factor=end)
    raise UserError(
        f"No learning-rate schedule '{name}'{did_you_mean(name, SCHEDULES)}. Choose lr= one of {join_names(SCHEDULES)}."
    )


def short_of_peak(lr: Mapping[str, Any], steps: int) -> str | None:
    """A line for the log when the warm-up is longer than the training, so that the peak is never reached."""
    warmup = int(lr.get("warmup_steps") or 0)
    if steps > warmup:
        return None
    reached = max(0, steps - 1) / warmup if warmup else 1.0
    return (
        f"note: lr.warmup_steps={warmup} is not over after trainer.steps={steps}: the learning rate reaches "
        f"{reached:.0%} of lr.peak only"
    )


def _peak(given: Any) -> float:
    try:
        peak = float(given)
    except (TypeError, ValueError):
        peak = math.nan
    if not (math.isfinite(peak) and peak > 0):
        raise UserError(f"lr.peak={given} is not a positive number. Type for instance lr.peak=3e-4.")
    return peak
