"""How openpi's JAX leaves and the tensors of its ports to torch correspond: names and shapes, exact both ways.

The tensors are those of openpi's models_pytorch; LeRobot's pi0 and pi05 have the same with `model.` in front. A layer
of a leaf becomes one tensor or two, by permuting axes and cutting alone, so nothing is rounded and means of several
checkpoints commute with it. openpi's own converter joins heads in an order that is right only where they are as wide
together as the model (gemma_2b); the order here holds for all sizes.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from xp.checkpoints.contiguous import contiguous
from xp.errors import UserError, some
from xp.foreign.text import printable
from xp.models.pi0.network.sizes import Shapes

type Values = Shaped[np.ndarray, "..."]
"""A layer of a leaf, or a tensor."""

EMBEDDING = "paligemma_with_expert.paligemma.lm_head.weight"
"""The table of text in a file; the language model's `embed_tokens` shares its data and is not written."""
EMBEDDING_TIED = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
UNUSED = "paligemma_with_expert.gemma_expert.lm_head.weight"
"""A matrix that no computation reads. Both ports refuse a file without it, so it is written, as zeros."""
HEADS = 8
"""Attention heads of the experts: of every variant of openpi's, and fixed in the code of both ports."""
_WIDE_HEADS = {1152: 16}
"""{width of a SigLIP: its heads}, of the one that openpi has."""


class Layout(NamedTuple):
    """What shapes do not say where heads are joined."""

    heads: int
    vision_heads: int


class Way(NamedTuple):
    """From a layer of a leaf to its tensors and back, as views where that is possible.

    `back` takes the tensors and the layer's shape; `shape` gives that shape for the tensors' shapes.
    """

    split: Callable[[Values], tuple[Values, ...]]
    back: Callable[[tuple[Values, ...], tuple[int, ...]], Values]
    shape: Callable[[tuple[tuple[int, ...], ...], Layout], tuple[int, ...]]


def _turned(array: Values) -> Values:
    return array.reshape(-1, array.shape[-1]).T


def _heads_first(array: Values) -> Values:
    """[heads, model, head] as rows: [heads * head, model]."""
    return contiguous(array.transpose(0, 2, 1)).reshape(-1, array.shape[1])


def _stacked(arrays: Sequence[Values]) -> Values:
    found = np.empty((len(arrays), *arrays[0].shape), arrays[0].dtype)
    for room, array in zip(found, arrays, strict=True):
        contiguous(array, room)
    return found


_SAME = Way(lambda a: (a,), lambda t, shape: t[0], lambda s, _: s[0])
_TURNED = Way(lambda a: (a.T,), lambda t, shape: t[0].T, lambda s, _: s[0][::-1])
_PATCHES = Way(
    lambda a: (a.transpose(3, 2, 0, 1),),
    lambda t, shape: t[0].transpose(2, 3, 1, 0),
    lambda s, _: (s[0][2], s[0][3], s[0][1], s[0][0]),
)
_PLACES = Way(lambda a: (a[0],), lambda t, shape: t[0][None], lambda s, _: (1, *s[0]))
_VISION_IN = Way(
    lambda a: (a.reshape(a.shape[0], -1).T,),
    lambda t, shape: t[0].T.reshape(shape),
    lambda s, own: (s[0][1], own.vision_heads, s[0][0] // own.vision_heads),
)
_VISION_BIAS = Way(
    lambda a: (a.reshape(-1),),
    lambda t, shape: t[0].reshape(shape),
    lambda s, own: (own.vision_heads, s[0][0] // own.vision_heads),
)
_VISION_OUT = Way(
    lambda a: (_turned(a),),
    lambda t, shape: t[0].T.reshape(shape),
    lambda s, own: (own.vision_heads, s[0][1] // own.vision_heads, s[0][0]),
)
_QUERY = Way(
    lambda a: (_heads_first(a),),
    lambda t, shape: t[0].reshape(shape[0], shape[2], shape[1]).transpose(0, 2, 1),
    lambda s, own: (own.heads, s[0][1], s[0][0] // own.heads),
)
_KEY_VALUE = Way(
    lambda a: tuple(_heads_first(part) for part in a),
    lambda t, shape: _stacked([x.reshape(shape[1], shape[3], shape[2]).transpose(0, 2, 1) for x in t]),
    lambda s, own: (2, 1, s[0][1], s[0][0]),
)
"""One head of keys and values, as in every variant: with more, shapes would not tell a head's width."""
_JOIN = Way(
    lambda a: (_turned(a),),
    lambda t, shape: t[0].T.reshape(shape),
    lambda s, own: (own.heads, s[0][1] // own.heads, s[0][0]),
)
_GATES = Way(
    lambda a: (a[0].T, a[1].T),
    lambda t, shape: _stacked([x.T for x in t]),
    lambda s, _: (2, *s[0][::-1]),
)
_PAIR = Way(lambda a: (a[0], a[1]), lambda t, shape: _stacked(t), lambda s, _: (2, *s[0]))


class Row(NamedTuple):
    """One leaf and the tensors that it becomes; `{i}` in their names is the layer of a stacked leaf."""

    leaf: str
    tensors: tuple[str, ...]
    way: Way

    @property
    def is_stacked(self) -> bool:
        """Whether the leaf's first axis counts layers."""
        return "{i}" in self.tensors[0]


def _dense(leaf: str, tensor: str) -> list[Row]:
    return [Row(f"{leaf}/kernel", (f"{tensor}.weight",), _TURNED), Row(f"{leaf}/bias", (f"{tensor}.bias",), _SAME)]


def _plain(leaf: str, tensor: str) -> list[Row]:
    return [Row(f"{leaf}/scale", (f"{tensor}.weight",), _SAME), Row(f"{leaf}/bias", (f"{tensor}.bias",), _SAME)]


def _vision() -> list[Row]:
    block, tower = "PaliGemma/img/Transformer/encoderblock", "paligemma_with_expert.paligemma.model.vision_tower"
    model = f"{tower}.vision_model"
    layer = f"{model}.encoder.layers.{{i}}"
    rows = [
        Row("PaliGemma/img/embedding/kernel", (f"{model}.embeddings.patch_embedding.weight",), _PATCHES),
        Row("PaliGemma/img/embedding/bias", (f"{model}.embeddings.patch_embedding.bias",), _SAME),
        Row("PaliGemma/img/pos_embedding", (f"{model}.embeddings.position_embedding.weight",), _PLACES),
        *_plain(f"{block}/LayerNorm_0", f"{layer}.layer_norm1"),
        *_plain(f"{block}/LayerNorm_1", f"{layer}.layer_norm2"),
        *_dense(f"{block}/MlpBlock_0/Dense_0", f"{layer}.mlp.fc1"),
        *_dense(f"{block}/MlpBlock_0/Dense_1", f"{layer}.mlp.fc2"),
    ]
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for name, tensor in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        rows.append(Row(f"{attention}/{name}/kernel", (f"{layer}.self_attn.{tensor}.weight",), _VISION_IN))
        rows.append(Row(f"{attention}/{name}/bias", (f"{layer}.self_attn.{tensor}.bias",), _VISION_BIAS))
    rows.append(Row(f"{attention}/out/kernel", (f"{layer}.self_attn.out_proj.weight",), _VISION_OUT))
    rows.append(Row(f"{attention}/out/bias", (f"{layer}.self_attn.out_proj.bias",), _SAME))
    rows += _plain("PaliGemma/img/Transformer/encoder_norm", f"{model}.post_layernorm")
    return rows + _dense("PaliGemma/img/head", "paligemma_with_expert.paligemma.model.multi_modal_projector.linear")


def _expert(suffix: str, model: str) -> list[Row]:
    layers, layer = "PaliGemma/llm/layers", f"{model}.layers.{{i}}"
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    rows = [
        Row(f"{layers}/attn/q_einsum{suffix}/w", (f"{attention}.q_proj.weight",), _QUERY),
        Row(
            f"{layers}/attn/kv_einsum{suffix}/w",
            (f"{attention}.k_proj.weight", f"{attention}.v_proj.weight"),
            _KEY_VALUE,
        ),
        Row(f"{layers}/attn/attn_vec_einsum{suffix}/w", (f"{attention}.o_proj.weight",), _JOIN),
        Row(f"{layers}/mlp{suffix}/gating_einsum", (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"), _GATES),
        Row(f"{layers}/mlp{suffix}/linear", (f"{mlp}.down_proj.weight",), _TURNED),
        *(row for half in ("lora_a", "lora_b") for row in _updates(suffix, half, attention, mlp)),
    ]
    norms = (
        (f"{layers}/pre_attention_norm{suffix}", f"{layer}.input_layernorm"),
        (f"{layers}/pre_ffw_norm{suffix}", f"{layer}.post_attention_layernorm"),
        (f"PaliGemma/llm/final_norm{suffix}", f"{model}.norm"),
    )
    for leaf, tensor in norms:
        rows += [Row(f"{leaf}/scale", (f"{tensor}.weight",), _SAME), *_dense(f"{leaf}/Dense_0", f"{tensor}.dense")]
    return rows


def _updates(suffix: str, half: str, attention: str, mlp: str) -> list[Row]:
    """Half of the low-rank updates of an expert: in torch they lie beside the weight they are for, as their leaves."""
    joint, feed_forward = "PaliGemma/llm/layers/attn", f"PaliGemma/llm/layers/mlp{suffix}"
    return [
        Row(f"{joint}/q_einsum{suffix}/{half}", (f"{attention}.q_proj.{half}",), _SAME),
        Row(f"{joint}/kv_einsum{suffix}/{half}", (f"{attention}.k_proj.{half}", f"{attention}.v_proj.{half}"), _PAIR),
        Row(f"{joint}/attn_vec_einsum{suffix}/{half}", (f"{attention}.o_proj.{half}",), _SAME),
        Row(f"{feed_forward}/gating_einsum_{half}", (f"{mlp}.gate_proj.{half}", f"{mlp}.up_proj.{half}"), _PAIR),
        Row(f"{feed_forward}/linear_{half}", (f"{mlp}.down_proj.{half}",), _SAME),
    ]


_HEADS_OF_TIME = ("action_in_proj", "action_out_proj", "state_proj", "action_time_mlp_in", "action_time_mlp_out",
    "time_mlp_in", "time_mlp_out")  # fmt: skip
ROWS: tuple[Row, ...] = (
    *_vision(),
    Row("PaliGemma/llm/embedder/input_embedding", (EMBEDDING,), _SAME),
    *_expert("", "paligemma_with_expert.paligemma.model.language_model"),
    *_expert("_1", "paligemma_with_expert.gemma_expert.model"),
    *(row for name in _HEADS_OF_TIME for row in _dense(name, name)),
)
"""Every leaf of pi0 and of pi0.5; a checkpoint has those that its network has."""
_BY_LEAF = {row.leaf: row for row in ROWS}
_STACKS = {row.tensors[0]: row.leaf for row in ROWS if row.is_stacked}
_LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")


@dataclass(frozen=True)
class Part:
    """One layer of a leaf (None: the whole of one that is not stacked) and the tensors that it becomes."""

    leaf: str
    layer: int | None
    tensors: tuple[str, ...]
    way: Way

    @property
    def is_same(self) -> bool:
        """Whether the tensor is the leaf as it is."""
        return self.way is _SAME

    def place(self, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """Of a leaf of a shape: the number of the layer's first element, and the layer's shape."""
        if self.layer is None:
            return 0, shape
        return self.layer * math.prod(shape[1:]), shape[1:]


def parts(shapes: Shapes) -> Iterator[Part]:
    """All leaves in the order of `ROWS`, layer by layer.

    Raises:
        UserError: a leaf that no tensor stands for.
    """
    unknown = [leaf for leaf in shapes if leaf not in _BY_LEAF]
    if unknown:
        raise UserError(
            f"The ports of pi0 to torch have no place for {printable(some(sorted(unknown), 4), 400)}. Give the params "
            "folder of a pi0 or pi0.5 as openpi saved it."
        )
    for row in (row for row in ROWS if row.leaf in shapes):
        for layer in range(shapes[row.leaf][0]) if row.is_stacked else (None,):
            yield Part(row.leaf, layer, tuple(name.format(i=layer) for name in row.tensors), row.way)


def tensor_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that a parameter tree becomes, the unused one too; nothing is allocated."""
    found: dict[str, tuple[int, ...]] = {}
    for part in parts(shapes):
        shape = shapes[part.leaf] if part.layer is None else shapes[part.leaf][1:]
        weightless = np.empty(shape, "V0")  # an array of elements without bytes: reshaping it copies nothing
        found |= {name: cut.shape for name, cut in zip(part.tensors, part.way.split(weightless))}
    rows, width = shapes["PaliGemma/llm/embedder/input_embedding"][0], shapes["action_in_proj/kernel"][1]
    return {**found, UNUSED: (rows, width)}


def leaf_shapes(tensors: Shapes, vision_heads: int | None, what: str) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf that tensors stand for, in the order of `ROWS`.

    Args:
        tensors: shape of each by its name, without LeRobot's `model.`.
        vision_heads: attention heads of the SigLIP; None: those of openpi's own, whose width tells it.
        what: where the tensors come from, for messages.

    Raises:
        UserError: tensors that are none of a pi0's, layers that are missing, or heads that nothing tells.
    """
    numbers = _layers(tensors)
    layout = Layout(HEADS, _vision_heads(tensors, vision_heads, what))
    found: dict[str, tuple[int, ...]] = {}
    for row in ROWS:
        layers = sorted(numbers.get(row.leaf, ()))
        if layers != list(range(len(layers))):
            missing = next(number for number in range(layers[-1]) if number not in layers)
            raise _missing(row.tensors[0].format(i=missing), what)
        if (row.is_stacked and not layers) or (not row.is_stacked and row.tensors[0] not in tensors):
            continue
        first = tuple(tensors.get(name.format(i=0)) for name in row.tensors)
        if None in first:
            raise _missing(row.tensors[first.index(None)].format(i=0), what)
        shape = row.way.shape(tuple(each for each in first if each is not None), layout)
        found[row.leaf] = (len(layers), *shape) if row.is_stacked else shape
    return found


def _layers(tensors: Shapes) -> dict[str, list[int]]:
    """{leaf: the numbers of the layers that tensors stand for}, of leaves that are stacked."""
    found: dict[str, list[int]] = {}
    for name in tensors:
        match = _LAYER.search(name)
        leaf = _STACKS.get(f"{name[: match.start()]}{{i}}{name[match.end() :]}") if match else None
        if match and leaf:
            found.setdefault(leaf, []).append(int(match[0]))
    return found


def _missing(name: str, what: str) -> UserError:
    return UserError(f"The weights in {what} lack {name}. Copy the folder again from where it was written.")


def _vision_heads(tensors: Shapes, given: int | None, what: str) -> int:
    places = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.embeddings.position_embedding.weight"
    if places not in tensors:
        raise UserError(
            f"{what} holds no pi0 or pi0.5 in torch: it has no {places}. Give a folder with the model.safetensors of "
            "openpi's or LeRobot's pi0 or pi0.5."
        )
    width = tensors[places][-1]
    heads = given if given is not None else _WIDE_HEADS.get(width)
    if heads is None or heads < 1 or width % heads:
        said = "nothing says" if heads is None else f"{heads} cannot be"
        raise UserError(
            f"The image encoder in {what} has a width of {width}, and {said} how many attention heads it has: in a "
            "file of torch tensors heads are joined. Say how many: 'load_options={vision_heads: N}' of the section "
            "that names the policy (predict, eval, dump, collect, merge, convert), or vision_heads=N in Python."
        )
    return heads


def joined(part: Part, tensors: Mapping[str, Values], shape: tuple[int, ...]) -> Values:
    """A layer of a leaf from its tensors; `shape` is the layer's."""
    return part.way.back(tuple(tensors[name] for name in part.tensors), shape)
