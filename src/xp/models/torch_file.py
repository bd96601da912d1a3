"""Weights that torch.save wrote, in a file from elsewhere: tensors alone; nothing runs, nothing of it is packed."""

import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from xp.foreign.paths import RefusedError, opened
from xp.foreign.text import printable


def read_state_dict(place: Path, what: str, again: str) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, on the CPU; together they take no more memory than the file.

    Args:
        place: the file; see `xp.foreign.paths.member`.
        what: what it is, for the message.
        again: what to do about one that is refused.

    Raises:
        UserError: the file is missing, damaged, a pickle that would run something, packed, or holds anything but
            tensors of floats by name.
    """
    with opened(place, what) as handle:
        try:
            _refuse_packed(place, handle, what, again)
            handle.seek(0)
            found = torch.load(handle, map_location="cpu", weights_only=True)
        except RefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - pickle, zipfile and torch raise many kinds
            raise RefusedError(
                f"{place} cannot be read as {what} ({type(error).__name__}: {printable(error, 200)}). What is no "
                f"tensor is not opened, since it could run anything. {again}"
            ) from error
    return _tensors(place, found, what, again)


def _refuse_packed(place: Path, handle: BinaryIO, what: str, again: str) -> None:
    size = handle.seek(0, 2)
    if not zipfile.is_zipfile(handle):
        raise RefusedError(
            f"{place} is no archive of torch.save: expected {what} (torch 1.6 or later). An older file is a "
            f"pickle, which can run anything when it is opened: load it where it was made, and save it anew. "
            f"{again}"
        )
    with zipfile.ZipFile(handle) as archive:
        entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or unpacked > size:
        raise RefusedError(
            f"{place} ({size:,} bytes) is packed and would take {unpacked:,}: expected {what}, which packs "
            f"nothing. {again}"
        )


def _tensors(place: Path, found: object, what: str, again: str) -> dict[str, torch.Tensor]:
    if not isinstance(found, dict):
        raise RefusedError(f"{place} holds a {type(found).__name__}: expected {what}. {again}")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in found.items():
        is_plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_floating_point()
        if not isinstance(name, str) or not is_plain or value.is_meta:
            raise RefusedError(f"{place}: '{printable(name, 80)}' is no dense tensor of floats. {again}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise RefusedError(
                f"{place}: '{printable(name, 80)}' shows the same numbers many times over, {list(value.shape)} of "
                f"{value.untyped_storage().nbytes():,} bytes: expected {what}. {again}"
            )
        tensors[name] = value
    return tensors
