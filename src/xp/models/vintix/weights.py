"""The weights of a Vintix model, model.pth: tensors alone; nothing in the file is run, and nothing of it is packed."""

import zipfile
from pathlib import Path

import torch

from xp import atomic
from xp.foreign.paths import RefusedError, member, opened
from xp.foreign.text import printable
from xp.models.vintix.folder import WEIGHTS

_WHAT = "a Vintix model's weights, as torch.save writes a state dict"
_AGAIN = "Copy the folder again from where it came from, or save the model again with xp."


def read_state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of model.pth by name, on the CPU.

    Raises:
        UserError: the file is missing, damaged, a pickle that would run something, packed, or holds anything but
            tensors of floats by name.
    """
    place = member(folder, WEIGHTS, _WHAT)
    with opened(place, _WHAT) as handle:
        size = handle.seek(0, 2)
        try:
            if not zipfile.is_zipfile(handle):
                raise RefusedError(
                    f"{place} is no archive of torch.save: expected {_WHAT} (torch 1.6 or later). An older file is a "
                    f"pickle, which can run anything when it is opened: load it where it was made, and save it anew. "
                    f"{_AGAIN}"
                )
            with zipfile.ZipFile(handle) as archive:
                entries = archive.infolist()
            unpacked = sum(entry.file_size for entry in entries)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or unpacked > size:
                raise RefusedError(
                    f"{place} ({size:,} bytes) is packed and would take {unpacked:,}: expected {_WHAT}, which packs "
                    f"nothing. {_AGAIN}"
                )
            handle.seek(0)
            found = torch.load(handle, map_location="cpu", weights_only=True)
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - pickle, zipfile and torch raise many kinds
            raise RefusedError(
                f"{place} cannot be read as {_WHAT} ({type(error).__name__}: {printable(error, 200)}). What is no "
                f"tensor is not opened, since it could run anything. {_AGAIN}"
            ) from error
    return _tensors(place, found)


def _tensors(place: Path, found: object) -> dict[str, torch.Tensor]:
    if not isinstance(found, dict):
        raise RefusedError(f"{place} holds a {type(found).__name__}: expected {_WHAT}. {_AGAIN}")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in found.items():
        is_plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_floating_point()
        if not isinstance(name, str) or not is_plain:
            raise RefusedError(f"{place}: '{printable(name, 80)}' is no dense tensor of floats. {_AGAIN}")
        tensors[name] = value
    return tensors


def write_state_dict(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write model.pth; the caller makes the folder atomic."""
    with atomic.file(folder / WEIGHTS) as temporary:
        torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
