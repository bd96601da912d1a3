"""The torch device that a policy is loaded to, and the CPU threads that it computes in."""

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """As many CPU threads for what torch computes inside; those of the process again after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
