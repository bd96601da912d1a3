"""Linear layers whose weights stand still in 4 or 8 bit: the base below an adapter.

`nf4` is QLoRA's (Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, section 3): 16 values at the
quantiles of a normal distribution, scaled in blocks of 64 by their largest magnitude; these scales, less their mean, in
8 bit over blocks of 256 (double quantisation), by the functions of bitsandbytes. `int8` scales each row by its largest
magnitude and rounds to -127..127 (Dettmers et al., "LLM.int8()", 2022, section 2.1, vector-wise); products are taken
with the weight in the type of what is given, so nothing but the weight is rounded. A layer makes its weight anew for
each product, in the backward pass too, and keeps it nowhere.

What is held are parameters without gradients: they move with the module, and a training knows them by their digest.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import nn
from torch.nn import functional

from xp.checkpoints.arrays import BFLOAT16, AnyArray, Leaf, Reader
from xp.errors import UserError
from xp.models.torch_arrays import as_tensor

KINDS = ("nf4", "int8")
"""`model.lora.base` of a quantised base."""
LAYERS = "language_model.model.layers."
"""Where the layers that are quantised stand: QLoRA's, those of the language model's transformer."""
_BLOCK, _BLOCK_OF_SCALES = 64, 256
_MOST = 127.0


class QuantisedLinear(nn.Linear):
    """A linear layer in 4 or 8 bit that stands still. `weight` is made anew each time it is asked for."""

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        """Quantise a layer on the host, where every machine gets the same numbers; its bias stays as it is.

        Args:
            layer: whose weight is taken.
            kind: one of `KINDS`.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind, self.held_as = kind, layer.weight.dtype
        for name, tensor in _QUANTISE[kind](layer.weight.detach().cpu().contiguous()).items():
            self.register_parameter(name, nn.Parameter(tensor.to(layer.weight.device), requires_grad=False))
        self.register_parameter("bias", layer.bias)

    @property
    def weight(self) -> Float[torch.Tensor, "out given"]:  # pyright: ignore - a parameter of every other linear layer
        """The weight in the type that it had."""
        held = {name: tensor for name, tensor in self.named_parameters(recurse=False) if name != "bias"}
        return _DEQUANTISE[self.kind](held, (self.out_features, self.in_features), self.held_as)

    def forward(self, given: Float[torch.Tensor, "*lead given"]) -> Float[torch.Tensor, "*lead out"]:
        """X W^T + bias for what is given, in the type of what is given."""
        return _Product.apply(given, self)  # pyright: ignore[reportReturnType] - torch's stubs say nothing of it


class _Product(torch.autograd.Function):
    """given W^T + bias, whose backward pass makes W again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, given: Shaped[torch.Tensor, "..."], layer: QuantisedLinear) -> Shaped[torch.Tensor, "..."]:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(given.dtype)
        return functional.linear(given, layer.weight.to(given.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Shaped[torch.Tensor, "..."]) -> tuple[Shaped[torch.Tensor, "..."], None]:  # pyright: ignore
        return grad @ ctx.layer.weight.to(grad.dtype), None


def quantise(module: nn.Module, kind: str) -> None:
    """Put `QuantisedLinear` in the place of the linear layers under `LAYERS`.

    Raises:
        UserError: bitsandbytes is missing, or has no functions for this machine.
    """
    check_kind(kind)
    for name, parent in list(module.named_modules()):
        for word, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and f"{name}.{word}".startswith(LAYERS):
                setattr(parent, word, QuantisedLinear(layer, kind))


def check_kind(kind: str) -> None:
    """Quantise a small matrix and bring it back, here and on the GPU where there is one.

    Raises:
        UserError: bitsandbytes is missing, or has no functions for this machine.
    """
    if kind != "nf4":
        return
    without = "or hold the base in 8 bit, which needs no package: model.lora.base=int8"
    try:
        import bitsandbytes  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError as error:
        raise UserError(
            "model.lora.base=nf4 needs the package 'bitsandbytes', which is not installed. Install it with "
            f"`uv sync --extra bitsandbytes` (or `pip install 'xp[bitsandbytes]'`), {without}."
        ) from error
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        try:
            layer = QuantisedLinear(nn.Linear(_BLOCK, _BLOCK, bias=False), kind).to(device)
            layer(torch.ones(1, _BLOCK, device=device))
        except Exception as error:  # noqa: BLE001 - whatever a missing or unfit library raises
            raise UserError(
                f"model.lora.base=nf4: bitsandbytes has no working functions for '{device}' here "
                f"({type(error).__name__}: {str(error)[:200]}). Install a version made for this machine "
                f"(pip install -U bitsandbytes), {without}."
            ) from error


class HeldReader:
    """A base's weights as they were when an adapter was trained on them: quantised, and brought back."""

    def __init__(self, reader: Reader, kind: str) -> None:
        """What is read instead of a reader's leaves.

        Args:
            reader: of the base, whose types stay as they are.
            kind: one of `KINDS`.
        """
        check_kind(kind)
        self.files, self.ties, self.leaves = reader.files, dict(reader.ties), reader.leaves
        self._reader, self._kind = reader, kind
        self._last: tuple[str, AnyArray] = ("", np.empty(0))

    def alignment(self, name: str) -> int:
        """As the reader's; of a quantised weight all of it, since it comes as one."""
        return self.leaves[name].size if self._is_held(self.leaves[name]) else self._reader.alignment(name)

    def requires_sequential_read(self, name: str) -> bool:
        """As the reader's."""
        return self._reader.requires_sequential_read(name)

    def read(self, name: str, start: int, stop: int) -> AnyArray:
        """See `Reader.read`."""
        leaf = self.leaves[name]
        if not self._is_held(leaf):
            return self._reader.read(name, start, stop)
        if self._last[0] != name:
            whole = np.array(self._reader.read(name, 0, leaf.size)).reshape(leaf.shape).astype(BFLOAT16)
            held = _QUANTISE[self._kind](as_tensor(whole))
            back = _DEQUANTISE[self._kind](held, leaf.shape, torch.bfloat16)
            self._last = name, back.float().numpy().reshape(-1).astype(leaf.dtype)
        return self._last[1][start:stop]

    def _is_held(self, leaf: Leaf) -> bool:
        return leaf.name.startswith(LAYERS) and len(leaf.shape) == 2 and leaf.name.endswith(".weight")


type _Held = Mapping[str, Shaped[torch.Tensor, "..."]]


def _to_nf4(weight: Float[torch.Tensor, "out given"]) -> dict[str, Shaped[torch.Tensor, "..."]]:
    from bitsandbytes.functional import quantize_4bit  # pyright: ignore[reportMissingImports]

    # As one row: where a block goes on in the next row, the CPU's kernel of bitsandbytes 0.50 takes another scale.
    packed, state = quantize_4bit(weight.reshape(-1), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4")
    second: Any = state.state2  # the scales' own, since they are compressed
    mean: Any = state.offset
    return {
        "packed": packed,
        "scales": state.absmax,
        "scales_mean": mean,
        "scales_of_scales": second.absmax,
        "scale_values": second.code,
    }


def _from_nf4(held: _Held, shape: tuple[int, ...], dtype: torch.dtype) -> Float[torch.Tensor, "out given"]:
    from bitsandbytes.functional import QuantState, dequantize_4bit  # pyright: ignore[reportMissingImports]

    second = QuantState(
        held["scales_of_scales"], code=held["scale_values"], blocksize=_BLOCK_OF_SCALES, dtype=torch.float32
    )
    state = QuantState(
        held["scales"],
        shape=torch.Size([math.prod(shape)]),
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=held["scales_mean"],
        state2=second,
    )
    return dequantize_4bit(held["packed"].detach(), state).reshape(shape)


def _to_int8(weight: Float[torch.Tensor, "out given"]) -> dict[str, Shaped[torch.Tensor, "..."]]:
    scales = weight.float().abs().amax(1, keepdim=True) / _MOST
    codes = (weight.float() / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-_MOST, _MOST)
    return {"codes": codes.to(torch.int8), "scales": scales}


def _from_int8(held: _Held, shape: tuple[int, ...], dtype: torch.dtype) -> Float[torch.Tensor, "out given"]:
    return (held["codes"].float() * held["scales"]).to(dtype)


_QUANTISE: Mapping[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {"nf4": _to_nf4, "int8": _to_int8}
_DEQUANTISE: Mapping[str, Callable[[_Held, tuple[int, ...], torch.dtype], torch.Tensor]] = {
    "nf4": _from_nf4,
    "int8": _from_int8,
}
