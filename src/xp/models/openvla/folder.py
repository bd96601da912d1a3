"""The weights and the tokeniser of an OpenVLA's folder: read and written, every weight checked by name and shape."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped

from xp.checkpoints.adapter_base import named_base
from xp.checkpoints.arrays import AnyArray, CorruptFileError, Leaf, Reader
from xp.checkpoints.flat_file import FlatReader
from xp.checkpoints.open import Checkpoint, open_checkpoint
from xp.checkpoints.peft_adapter import HELD_BASE, is_adapter
from xp.checkpoints.safetensors import create_safetensors, open_folder
from xp.errors import UserError, some
from xp.foreign.json_file import read_fields
from xp.foreign.paths import member, opened
from xp.foreign.text import printable
from xp.models.misfit import PLURAL, misfit
from xp.models.openvla.config_file import ADAPTER_FOLDER, CONFIG, has_weights, is_unmerged, without_weights
from xp.models.openvla.sidecar import TOKENIZER_FILES
from xp.models.torch_arrays import as_array, numpy_dtype

SHARD = 5_000_000_000
"""Bytes of a file above which weights are spread over several, as Hugging Face's save_pretrained does."""
_MOST = 64_000_000
"""Bytes of a file of a tokeniser."""


@dataclass(frozen=True)
class Around:
    """What a folder holds that is neither weights nor configuration, kept to be written again."""

    tokenizer: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)
    """The files of the tokeniser."""
    shard_map: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """{weight: its file}."""


class Weights(NamedTuple):
    """Opened weights, and the folder whose config.json describes them."""

    reader: Reader
    described_in: Path


def open_weights(folder: Path, base: str | None = None) -> Weights:
    """The weights of a folder, whole or in shards, an adapter's folded into its base; their data is not read yet.

    Args:
        folder: the folder.
        base: of an adapter: the folder of the weights that it was trained on.

    Raises:
        UserError: there are none, a file is missing, cut short or damaged, or index and shards do not agree; an adapter
            whose base is not found, or has other weights.
    """
    if is_adapter(folder):
        return Weights(_open_adapted(folder, base).reader, folder)
    if is_unmerged(folder):
        below = _open_adapted(folder / ADAPTER_FOLDER, base)
        if below.sidecar is None or not os.path.lexists(below.sidecar / CONFIG):
            raise UserError(f"{below.base} has no {CONFIG}. Give the folder of the OpenVLA that {folder} began from.")
        return Weights(below.reader, below.sidecar)
    if base is not None:
        raise UserError(f"base={base}: {folder} holds whole weights, which need no base. Leave base out.")
    if not has_weights(folder):
        raise UserError(without_weights(folder))
    try:
        reader = open_folder(folder)
    except CorruptFileError as error:
        raise UserError(f"The weights in {folder} are damaged: {error}. Copy them again from their source.") from error
    odd = sorted(name for name, leaf in reader.leaves.items() if not leaf.is_float)
    if odd:
        raise UserError(
            f"The weights in {folder} hold {printable(some(odd, 4), 400)} as {reader.leaves[odd[0]].dtype}, as "
            "quantised weights are held. Give the folder of the weights in bfloat16 or float32."
        )
    return Weights(reader, folder)


def _open_adapted(folder: Path, base: str | None) -> Checkpoint:
    if base is None and named_base(folder, given=True) is None:
        merged = (
            ", or write both as one policy: xp task=merge merge_method=average "
            f"merge.checkpoints=[{folder}] merge.base=BASE merge.output=FOLDER"
        )
        raise UserError(
            f"{folder} is an adapter, and the base that its adapter_config.json names does not lie beside it: such a "
            "path is not followed unasked. Give the folder of the base, load_policy(FOLDER, base=BASE) "
            "(predict.load_options.base=BASE, eval.load_options.base=BASE)"
            f"{'' if folder.name == ADAPTER_FOLDER else merged}"
        )
    return open_checkpoint(folder, base=base, held=_held(folder))


def _held(folder: Path) -> Callable[[Reader], Reader] | None:
    """How an adapter's base was held in training; None: as it is."""
    if not os.path.lexists(folder / HELD_BASE):
        return None
    from xp.models.openvla.quantised import KINDS, HeldReader

    what = "xp's note on how an adapter's base was held"
    kind = read_fields(member(folder, HELD_BASE, what), what).text("base", among=KINDS)
    return lambda reader: HeldReader(reader, kind)


def load_arrays(reader: Reader, names: Iterable[str] | None = None) -> dict[str, AnyArray]:
    """Whole arrays in their shapes, by default all."""
    if isinstance(reader, FlatReader):
        return reader.load(names)
    leaves = reader.leaves
    return {
        name: np.array(reader.read(name, 0, leaves[name].size)).reshape(leaves[name].shape)
        for name in (leaves if names is None else names)
    }


def around(folder: Path, reader: Reader) -> Around:
    """The tokeniser's files and the places of the weights.

    Raises:
        UserError: a file is a link out of the folder, or larger than any tokeniser.
    """
    files = {}
    for name in (name for name in TOKENIZER_FILES if os.path.lexists(folder / name)):
        path = member(folder, name, "a file of the tokeniser")
        with opened(path, "a file of the tokeniser") as handle:
            files[name] = handle.read(_MOST + 1)
        if len(files[name]) > _MOST:
            raise UserError(f"{path} has more than {_MOST:,} bytes: expected a file of the tokeniser. Take it again.")
    shards = {}
    if isinstance(reader, FlatReader) and len(reader.files) > 1:
        shards = {name: reader.file_of(name).name for name in reader.leaves}
    return Around(files, shards)


def check_fit(folder: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights that are not those of the network, each and no other.

    Raises:
        UserError: names what is missing, too many or of another shape.
    """
    said = misfit(found, wanted, PLURAL)
    if said:
        raise UserError(
            f"The weights in {folder} do not fit its own {CONFIG}: they {said}. The folder is damaged or of "
            "another network: take it again from where it was trained."
        )


def write_weights(folder: Path, tensors: Mapping[str, Shaped[torch.Tensor, "..."]], known: Mapping[str, str]) -> None:
    """Write tensors in their own types, each in the file that `known` has for it; the caller makes it atomic."""
    leaves = {name: Leaf(name, tuple(tensor.shape), numpy_dtype(tensor.dtype)) for name, tensor in tensors.items()}
    writer = create_safetensors(folder, leaves, ties={}, shard_map=_shards(leaves.values(), known))
    for name, tensor in tensors.items():
        writer.write(name, 0, as_array(tensor).reshape(-1))
    writer.close()


def _shards(leaves: Iterable[Leaf], known: Mapping[str, str]) -> dict[str, str]:
    """{weight: file}: as known, what is new in the last of these files; else one filled after the other."""
    leaves = list(leaves)
    if known:
        last = max(known.values())
        return {leaf.name: known.get(leaf.name, last) for leaf in leaves}
    numbers, filled = {}, [0]
    for leaf in leaves:
        if filled[-1] and filled[-1] + leaf.nbytes > SHARD:
            filled.append(0)
        filled[-1] += leaf.nbytes
        numbers[leaf.name] = len(filled)
    if len(filled) == 1:
        return {}
    return {name: f"model-{number:05d}-of-{len(filled):05d}.safetensors" for name, number in numbers.items()}
