"""Learning-rate schedules: plain functions of the number of finished steps.

The rate is worked out on the host and handed to the compiled step as a number, so changing it never recompiles.
"""

import math
from collections.abc import Callable, Sequence
from typing import SupportsFloat

from xp.config.more_steps import Extension, read_extensions
from xp.config.words import HOLD, RESTART, SCHEDULES
from xp.errors import UserError, did_you_mean, join_names
from xp.json_types import JSON, JSONObject

Schedule = Callable[[int], float]
"""Number of finished steps (0 for the first update) -> learning rate of the next update."""


def constant(step: int, *, peak: float, warmup_steps: int = 0) -> float:
    """`peak` at every step, after an optional linear warm-up (a constant schedule is usually given no warm-up)."""
    return linear_warmup(step, peak=peak, warmup_steps=warmup_steps)


def linear_warmup(step: int, *, peak: float, warmup_steps: int) -> float:
    """Linear 0 -> `peak` over `warmup_steps`, then constant.

    The rule of published fine-tuning scripts (optax `join_schedules` of `linear_schedule` and `constant_schedule`): the
    very first update has rate 0, update number `warmup_steps` (counted from 0) is the first at `peak`.
    """
    return peak if step >= warmup_steps else peak * step / warmup_steps


def linear_decay(step: int, *, peak: float, warmup_steps: int, steps: int, end_factor: float) -> float:
    """Linear 0 -> `peak` over `warmup_steps`, then linear to `end_factor * peak` at `steps`; constant from there on.

    With `end_factor` 0 the rule of transformers' `get_linear_schedule_with_warmup`.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (1.0 + (end_factor - 1.0) * done)


def cosine(step: int, *, peak: float, warmup_steps: int, steps: int, end_factor: float) -> float:
    """Linear 0 -> `peak` over `warmup_steps`, then half a cosine down to `end_factor * peak` at `steps`.

    SGDR's annealing without restarts (Loshchilov & Hutter 2017, eq. 5), the same numbers as optax's
    `warmup_cosine_decay_schedule(0, peak, warmup_steps, steps, end_factor * peak)`. Constant from `steps` on.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return peak * (end_factor + (1.0 - end_factor) * 0.5 * (1.0 + math.cos(math.pi * done)))


def warmup_cosine(step: int, *, peak: float, warmup_steps: int, steps: int, end_factor: float) -> float:
    """As `cosine`, its warm-up counted from 1, so that no update has rate 0: `peak` (s + 1) / (`warmup_steps` + 1).

    The rule of openpi's `CosineDecaySchedule`: optax's `warmup_cosine_decay_schedule` that begins at
    `peak / (warmup_steps + 1)`.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    return cosine(step, peak=peak, warmup_steps=warmup_steps, steps=steps, end_factor=end_factor)


def make_schedule(lr: JSONObject, steps: int) -> Schedule:
    """Build the schedule that a `lr` section describes.

    Args:
        lr: `schedule` (constant | cosine | linear_decay | linear_warmup | warmup_cosine), `peak` (rate),
            `warmup_steps` (steps), `end_factor` (share of the peak that a decay ends at), `extensions` (where the
            training was done and got more steps, see `extended`).
        steps: number of training steps, where a decay ends.

    Raises:
        UserError: an unknown schedule, a peak that is not a positive number, a negative warm-up, an end outside 0..1,
            extensions that are no list of them.
    """
    return extended(lambda total: _over(lr, total), read_extensions(lr.get("extensions"), steps), steps)


def extended(make: Callable[[int], Schedule], extensions: Sequence[Extension], steps: int) -> Schedule:
    """The schedule of a training that was done at the end of each extension and then got more steps.

    Up to the first end it is the schedule over so many steps. What follows an end e, up to the next end (or `steps`) n:
    `hold` keeps the rate that the schedule so far has at e; `restart` is the schedule over n - e steps, begun at e with
    its warm-up; `stretch` is, from e on, the schedule over all steps up to n (counted from the last restart).

    Args:
        make: gives the schedule over a total number of steps.
        extensions: in ascending order of their ends.
        steps: the total number of steps.
    """
    totals = [*(extension.steps for extension in extensions), steps]
    pieces, origin = [(0, make(totals[0]))], 0
    for (end, extend), total in zip(extensions, totals[1:]):
        if extend == HOLD:
            pieces.append((end, _held(pieces[-1][1](end))))
            continue
        origin = end if extend == RESTART else origin
        pieces.append((end, _begun_at(origin, make(total - origin))))
    return lambda step: next(piece for start, piece in reversed(pieces) if step >= start)(step)


def _held(rate: float) -> Schedule:
    return lambda step: rate


def _begun_at(start: int, schedule: Schedule) -> Schedule:
    return lambda step: schedule(step - start)


def _over(lr: JSONObject, steps: int) -> Schedule:
    """The schedule of a `lr` section over `steps`, without extensions."""
    name, peak = str(lr["schedule"]), _peak(lr["peak"])
    warmup, end = int(_number(lr, "warmup_steps")), _number(lr, "end_factor")
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
    if name == "linear_decay":
        return lambda step: linear_decay(step, peak=peak, warmup_steps=warmup, steps=steps, end_factor=end)
    if name == "cosine":
        return lambda step: cosine(step, peak=peak, warmup_steps=warmup, steps=steps, end_factor=end)
    if name == "warmup_cosine":
        return lambda step: warmup_cosine(step, peak=peak, warmup_steps=warmup, steps=steps, end_factor=end)
    raise UserError(
        f"No learning-rate schedule '{name}'{did_you_mean(name, SCHEDULES)}. Choose lr= one of {join_names(SCHEDULES)}."
    )


def warmup_note(lr: JSONObject, steps: int) -> str | None:
    """A line for the log when the warm-up is longer than the training, so that the peak is never reached."""
    warmup = int(_number(lr, "warmup_steps"))
    if steps > warmup:
        return None
    reached = max(0, steps - 1) / warmup if warmup else 1.0
    return (
        f"note: lr.warmup_steps={warmup} is not over after trainer.steps={steps}: the learning rate reaches "
        f"{reached:.0%} of lr.peak only"
    )


def _number(lr: JSONObject, key: str) -> float:
    """A number of the section; 0 where it is null or not there."""
    given = lr.get(key) or 0
    assert isinstance(given, str | SupportsFloat), f"lr.{key} is no number"
    return float(given)


def _peak(given: JSON) -> float:
    try:
        peak = float(given) if isinstance(given, str | SupportsFloat) else math.nan
    except ValueError:
        peak = math.nan
    if not (math.isfinite(peak) and peak > 0):
        raise UserError(f"lr.peak={given} is not a positive number. Type for instance lr.peak=3e-4.")
    return peak
