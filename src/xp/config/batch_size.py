"""`trainer.batch_size`: a number of windows, or `auto` for the largest batch whose training step fits in memory."""

from xp.errors import UserError

AUTO = "auto"
"""The batch size is found when the run begins."""


def check_batch_size(given: object, accumulate: int, most: int, *, devices: object, strategy: str) -> None:
    """Refuse what is no batch size, and `auto` where it cannot be honoured.

    Args:
        given: the value of `trainer.batch_size`.
        accumulate: of how many parts a batch is.
        most: `trainer.batch_size_max`.
        devices: `trainer.devices`, a number or "auto".
        strategy: `trainer.strategy`.

    Raises:
        UserError: what to type.
    """
    if given == AUTO:
        _check_auto(accumulate * (devices if isinstance(devices, int) else 1), most, strategy)
        return
    if not isinstance(given, int) or isinstance(given, bool):
        raise UserError(f"trainer.batch_size={given}: expected a whole number, or auto for the largest that fits.")
    if given < 1:
        raise UserError(f"trainer.batch_size={given}: must be at least 1, or auto for the largest that fits.")
    if accumulate > given:
        raise UserError(
            f"trainer.accumulate={accumulate} splits a batch of trainer.batch_size={given} into more parts than it has "
            f"samples. Give 1..{given}."
        )


def _check_auto(least: int, most: int, strategy: str) -> None:
    if strategy == "fsdp":
        raise UserError(
            "trainer.batch_size=auto is found on each device by itself, and with trainer.strategy=fsdp none holds the "
            "whole model. Type trainer.batch_size=N, or trainer.strategy=ddp"
        )
    if least > most:
        raise UserError(
            f"trainer.batch_size_max={most} is below the smallest batch that trainer.accumulate and trainer.devices "
            f"can share ({least}). Type trainer.batch_size_max={least} or more"
        )


def next_size(tried: dict[int, bool], unit: int, most: int) -> int | None:
    """The batch size to try next, or None when the largest is found: doubling from `unit`, then a step of a half.

    Args:
        tried: {size: whether it fits} so far.
        unit: every size is a multiple of it.
        most: the largest size allowed.
    """
    if not tried:
        return unit if unit <= most else None
    largest = largest_fitting(tried)
    if largest is None:
        return None
    bound = min([most + 1, *(size for size, fits in tried.items() if not fits)])
    for size in (2 * largest, largest + largest // 2):
        if largest < size < bound and size % unit == 0:
            return size
    return None


def largest_fitting(tried: dict[int, bool]) -> int | None:
    """The largest size that fits, if any."""
    return max((size for size, fits in tried.items() if fits), default=None)
