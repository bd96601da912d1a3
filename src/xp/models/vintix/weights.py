"""The weights of a Vintix model, model.pth: tensors alone; nothing in the file is run, and nothing of it is packed."""

from pathlib import Path

import torch

from xp import atomic
from xp.checkpoints.torch_archive import load_floats
from xp.foreign.paths import member
from xp.models.torch_arrays import as_tensor
from xp.models.vintix.folder import WEIGHTS

_WHAT = "a Vintix model's weights"
_AGAIN = "Copy the folder again from where it came from, or save the model again with xp."


def read_state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of model.pth by name, on the CPU.

    Raises:
        UserError: see `load_floats`.
    """
    arrays = load_floats(member(folder, WEIGHTS, _WHAT), _WHAT, _AGAIN)
    return {name: as_tensor(array) for name, array in arrays.items()}


def write_state_dict(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write model.pth; the caller makes the folder atomic."""
    with atomic.file(folder / WEIGHTS) as temporary:
        torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
