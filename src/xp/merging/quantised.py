"""Refuses checkpoints whose weights are quantised: sums of codes are not sums of weights."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from xp.checkpoints.arrays import Leaf
from xp.checkpoints.open import Checkpoint
from xp.errors import UserError
from xp.foreign.json_file import read_object
from xp.foreign.text import printable
from xp.json_types import JSON, JSONObject

ALWAYS = re.compile(
    r"SCB|CB|qweight|qzeros|g_idx|weight_g_idx|weight_packed|weight_shape|weight_scale(_inv|_2)?|scale_weight|"
    r"weight_zero_point|absmax|nested_absmax|quant_map|nested_quant_map|quant_state.*|bitsandbytes__.*|weight_format|"
    r"W_q|codebooks|scaled_fp8|_packed_params.*|input_scale|activation_scale|[kqv]_scale|kv_scale|qscales"
)
"""Last parts of names that only quantisation has: fp8 of transformers, compressed-tensors and ModelOpt; bitsandbytes'
int8 and 4 bit; GPTQ, AWQ, HQQ, AQLM, EETQ."""
BESIDE = re.compile(r".*(scale|zero|absmax|codebook|amax|quant|_data|packed).*", re.I)
"""Words in the names of what stands beside codes; on their own they say nothing (a layer norm has a scale)."""
CODES = re.compile(r"weight|kernel|w|embedding|qrhs|.*_proj")
"""Last parts of names of weights: as integers they are codes, whatever stands beside them."""
FIELDS = ("quantization_config", "compression_config", "quantization")
FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", "quanto_qmap.json", "quant_log.csv")


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose weights are codes.

    Raises:
        UserError: names the weight and what belongs to it, or the configuration that says so, and what to do.
    """
    why = next(_reasons(checkpoint), None)
    if why is None:
        return
    raise UserError(
        f"{printable(checkpoint.path)} is quantised: {why}. The mean of codes is not the code of the mean, so it is "
        "not merged. Dequantise it first and merge that. With transformers: AutoModel.from_pretrained("
        f"'{printable(checkpoint.sidecar or checkpoint.place)}').dequantize().save_pretrained('FOLDER'), in bfloat16, "
        "then merge.checkpoints=[FOLDER,...]"
    )


def _reasons(checkpoint: Checkpoint) -> Iterator[str]:
    yield from _by_names(checkpoint.reader.leaves)
    if checkpoint.sidecar is not None:
        yield from _by_configuration(checkpoint.sidecar)


def _by_names(leaves: Mapping[str, Leaf]) -> Iterator[str]:
    narrow: dict[str, Leaf] = {}
    for name, leaf in leaves.items():
        parent, last = _split(name)
        if ALWAYS.fullmatch(last):
            yield f"{_named(leaf)} belongs to {_owner(parent, last, leaves)}"
        if _is_narrow(leaf):
            narrow.setdefault(parent, leaf)
            narrow.setdefault(name, leaf)  # what hangs below the weight itself: weight.scale
    for name, leaf in leaves.items():
        parent, last = _split(name)
        owner = narrow.get(parent)
        near = owner is not None and owner.name != name and BESIDE.fullmatch(last)
        if owner is not None and near and (parent or name.startswith(owner.name)):
            yield f"{_named(owner)} means something only with {_named(leaf)}"
    for leaf in leaves.values():
        if leaf.dtype.kind in "iu" and len(leaf.shape) >= 2 and CODES.fullmatch(_split(leaf.name)[1]):
            yield f"{_named(leaf)} is a weight that is stored as integers"


def _split(name: str) -> tuple[str, str]:
    """The parent's name, and the last part."""
    place = max(name.rfind("."), name.rfind("/"))
    return name[: max(place, 0)], name[place + 1 :]


def _owner(parent: str, last: str, leaves: Mapping[str, Leaf]) -> str:
    if parent in leaves:
        return _named(leaves[parent])
    beside = [leaf for name, leaf in leaves.items() if _split(name)[0] == parent and _split(name)[1] != last]
    codes = [leaf for leaf in beside if _is_narrow(leaf)] or [leaf for leaf in beside if len(leaf.shape) > 1]
    return _named(codes[0]) if codes else f"the codes of {printable(parent) or 'a weight'}"


def _is_narrow(leaf: Leaf) -> bool:
    """Whether a leaf may hold codes: one byte an element, or packed integers of more than one axis."""
    if leaf.dtype.itemsize == 1 and leaf.dtype != np.bool_:
        return len(leaf.shape) > 0
    return leaf.dtype.kind in "iu" and leaf.dtype.itemsize < 8 and len(leaf.shape) >= 2


def _named(leaf: Leaf) -> str:
    return f"{printable(leaf.name)} ({leaf.dtype.name})"


def _by_configuration(folder: Path) -> Iterator[str]:
    for name in FILES:
        if (folder / name).exists():
            yield f"it has a {name}"
    if (folder / "config.json").is_file():
        config = read_object(folder / "config.json", "a model's configuration")
        for path, value in _fields(config):
            method = value.get("quant_method", value.get("quant_algo")) if isinstance(value, Mapping) else value
            yield f"its config.json has {path}" + (f" ({printable(method)})" if method else "")


def _fields(config: JSONObject, depth: int = 2) -> Iterable[tuple[str, JSON]]:
    """What the configuration, or that of a part (text_config), says about quantisation."""
    for key, value in config.items():
        if key in FIELDS and value:
            yield key, value
        elif isinstance(value, Mapping) and depth:
            yield from ((f"{key}.{path}", found) for path, found in _fields(value, depth - 1))
