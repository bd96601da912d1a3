"""The torch device that a policy is loaded to."""

import torch

from xp.errors import UserError


def torch_device(name: str | None) -> str:
    """The name of a device that torch has here; None: a GPU where there is one.

    Raises:
        UserError: torch has no such device.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={name!r}: torch has no such device here ({str(error).splitlines()[0]}). Allowed is for instance "
            "'cpu'; type device='cpu', or leave it out."
        ) from error
    return name
