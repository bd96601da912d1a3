"""Checks of devices, strategy and parts of a batch, the same before a sweep and in the training loop."""

import math

from xp.errors import UserError


def check_devices(devices: object, strategy: str, compiled: bool) -> None:
    """Refuse numbers of devices that are none, and strategies that do not go with the rest.

    Raises:
        UserError: naming the key, the value and what to type.
    """
    is_count = isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1
    if devices != "auto" and not is_count:
        raise UserError(
            f"trainer.devices={devices} must be a whole number of at least 1, or auto for every GPU there is. Type for "
            "instance trainer.devices=2"
        )
    if devices == 1 and strategy != "auto":
        raise UserError(
            f"trainer.strategy={strategy} shares the work over several devices, and trainer.devices=1 is one. Type "
            "trainer.devices=auto (every GPU there is) or a number, or trainer.strategy=auto"
        )
    if strategy == "fsdp" and compiled:
        raise UserError(
            "trainer.compile=true does not go with trainer.strategy=fsdp, which gathers weights between the parts of a "
            "compiled step. Type trainer.compile=false, or trainer.strategy=ddp"
        )


def check_accumulate(size: int, accumulate: int, devices: int = 1) -> None:
    """Refuse a batch of `size` windows that `trainer.accumulate`, on each of so many devices, does not divide."""
    parts = accumulate * devices
    if not size % parts:
        return
    if devices == 1:
        divisor = math.gcd(size, parts)
        raise UserError(
            f"trainer.accumulate={parts} does not divide the batch of {size} windows into equal "
            f"parts. Give a divisor of {size}, for instance trainer.accumulate={divisor}."
        )
    raise UserError(
        f"trainer.batch_size={size} is shared by {devices} devices (trainer.devices), each in {accumulate} equal parts "
        f"(trainer.accumulate), and {size} is not a multiple of {parts}. Type for instance trainer.batch_size="
        f"{max(1, size // parts) * parts}"
    )
