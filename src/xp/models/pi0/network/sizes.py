"""The sizes of a pi0 or pi0.5, by name or as the shapes of its weights tell them. Imports nothing heavy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from xp.errors import UserError, join_names

type Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each weight by its path, joined by '/'."""

COLOURS = 3


@dataclass(frozen=True, kw_only=True)
class VisionSizes:
    """A SigLIP encoder (Zhai et al. 2023): a vision transformer without a class token or pooling."""

    width: int
    depth: int
    mlp: int
    heads: int
    patch: int = 14
    """Side of a patch in pixels."""
    tokens: int = 256
    """Patches of a picture, a square number."""

    @property
    def side(self) -> int:
        """Side of a picture in pixels."""
        return math.isqrt(self.tokens) * self.patch


@dataclass(frozen=True, kw_only=True)
class ExpertSizes:
    """A Gemma transformer (Gemma Team 2024). The experts of a model share depth, heads and the width of a head."""

    width: int
    depth: int
    mlp: int
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    lora_rank: int | None = None
    """Of the low-rank updates (Hu et al. 2022) beside its attention and MLP weights; None: there are none."""
    lora_scale: float = 1.0
    """alpha / rank of those in attention, 1 in every variant of openpi; its MLPs take no scale."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """All that the shapes of the weights follow from."""

    vision: VisionSizes
    language: ExpertSizes
    action: ExpertSizes
    vocabulary: int = 257_152
    action_dim: int = 32
    """Width of states and actions; those of a robot are filled up with zeros."""
    is_pi05: bool = True
    """pi0.5: time modulates the norms of the action expert (adaRMS) and the state is read as text; pi0: a state token,
    and time is mixed into the actions."""

    @property
    def name(self) -> str:
        """What the model is called."""
        return "pi05" if self.is_pi05 else "pi0"


VISIONS: Mapping[str, VisionSizes] = {
    "so400m": VisionSizes(width=1152, depth=27, mlp=4304, heads=16),
    "tiny": VisionSizes(width=64, depth=2, mlp=128, heads=2, tokens=16),
}
"""`so400m` is SigLIP So400m/14 at 224 pixels; `tiny` looks at 56 pixels."""
_WHOLE = {
    "gemma_2b": ExpertSizes(width=2048, depth=18, mlp=16_384),
    "gemma_300m": ExpertSizes(width=1024, depth=18, mlp=4096),
    "dummy": ExpertSizes(width=64, depth=4, mlp=128, head_dim=16),
}
EXPERTS: Mapping[str, ExpertSizes] = {
    **_WHOLE,
    "gemma_2b_lora": replace(_WHOLE["gemma_2b"], lora_rank=16),
    "gemma_300m_lora": replace(_WHOLE["gemma_300m"], lora_rank=32),
    "dummy_lora": replace(_WHOLE["dummy"], lora_rank=4),
}
"""The variants of openpi's models/gemma.py, by its names."""

_BLOCK = "PaliGemma/img/Transformer/encoderblock"
_LAYERS = "PaliGemma/llm/layers"


def sizes_from_shapes(shapes: Shapes, what: str) -> Sizes:
    """The sizes that a parameter tree has; whether it is pi0 or pi0.5 is told by the weights that only one of them has.

    Args:
        shapes: shape of each weight by its path.
        what: where the tree comes from, for the message.

    Raises:
        UserError: weights that every such model has are missing or have another rank.
    """
    vision, query = _shape(shapes, f"{_BLOCK}/MlpBlock_0/Dense_0/kernel", 3, what), _query(shapes, "", what)
    table = _shape(shapes, "PaliGemma/llm/embedder/input_embedding", 2, what)
    heads = _shape(shapes, f"{_BLOCK}/MultiHeadDotProductAttention_0/query/kernel", 4, what)[2]
    patch = _shape(shapes, "PaliGemma/img/embedding/kernel", 4, what)[0]
    tokens = _shape(shapes, "PaliGemma/img/pos_embedding", 3, what)[1]
    is_pi05, is_pi0 = "time_mlp_in/kernel" in shapes, "state_proj/kernel" in shapes
    if is_pi05 == is_pi0:
        both = "both of" if is_pi05 else "neither of"
        raise UserError(
            f"The weights in {what} have {both} time_mlp_in/kernel (of pi0.5) and state_proj/kernel (of pi0), so it is "
            "unclear which of the two models they are. Give the params folder of a pi0 or pi0.5 as openpi saved it."
        )
    if math.isqrt(tokens) ** 2 != tokens:
        raise UserError(
            f"PaliGemma/img/pos_embedding in {what} is for {tokens} patches: expected a square number of them (a pi0 "
            "looks at square pictures). Give the params folder of a pi0 or pi0.5 as openpi saved it."
        )
    return Sizes(
        vision=VisionSizes(width=vision[1], depth=vision[0], mlp=vision[2], heads=heads, patch=patch, tokens=tokens),
        language=_expert(shapes, "", query, what),
        action=_expert(shapes, "_1", _query(shapes, "_1", what), what),
        vocabulary=table[0],
        action_dim=_shape(shapes, "action_in_proj/kernel", 2, what)[0],
        is_pi05=is_pi05,
    )


def _query(shapes: Shapes, suffix: str, what: str) -> tuple[int, ...]:
    return _shape(shapes, f"{_LAYERS}/attn/q_einsum{suffix}/w", 4, what)


def _expert(shapes: Shapes, suffix: str, query: tuple[int, ...], what: str) -> ExpertSizes:
    depth, heads, width, head_dim = query
    keys = _shape(shapes, f"{_LAYERS}/attn/kv_einsum{suffix}/w", 5, what)
    mlp = _shape(shapes, f"{_LAYERS}/mlp{suffix}/linear", 3, what)[1]
    low = shapes.get(f"{_LAYERS}/attn/q_einsum{suffix}/lora_a")
    return ExpertSizes(
        width=width,
        depth=depth,
        mlp=mlp,
        heads=heads,
        kv_heads=keys[2],
        head_dim=head_dim,
        lora_rank=low[-1] if low else None,
    )


def _shape(shapes: Shapes, path: str, rank: int, what: str) -> tuple[int, ...]:
    found = shapes.get(path)
    if found is None or len(found) != rank:
        there = f"of shape {list(found)}" if found is not None else f"not among {join_names(sorted(shapes)[:4])}, ..."
        raise UserError(
            f"{what} holds no pi0 or pi0.5: its weight {path} is {there}; expected one of {rank} axes. Give the params "
            "folder of a pi0 or pi0.5 as openpi saved it."
        )
    return found


def weight_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shape of every weight of a model of these sizes by its path; no framework is needed."""
    language, action, wide = sizes.language, sizes.action, sizes.action_dim
    found = _vision_shapes(sizes.vision, language.width)
    found["PaliGemma/llm/embedder/input_embedding"] = (sizes.vocabulary, language.width)
    found |= _expert_shapes(language, "", False) | _expert_shapes(action, "_1", sizes.is_pi05)
    width = action.width
    heads = {"action_in_proj": (wide, width), "action_out_proj": (width, wide)}
    if sizes.is_pi05:
        heads |= {"time_mlp_in": (width, width), "time_mlp_out": (width, width)}
    else:
        heads |= {"state_proj": (wide, width), "action_time_mlp_in": (2 * width, width)}
        heads["action_time_mlp_out"] = (width, width)
    for name, shape in heads.items():
        found |= _dense_shapes(name, shape)
    return found


def _dense_shapes(path: str, shape: tuple[int, ...], stack: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel": (*stack, *shape), f"{path}/bias": (*stack, shape[-1])}


def _vision_shapes(own: VisionSizes, language: int) -> dict[str, tuple[int, ...]]:
    stack, head = (own.depth,), own.width // own.heads
    found = _dense_shapes("PaliGemma/img/embedding", (own.patch, own.patch, COLOURS, own.width))
    found["PaliGemma/img/pos_embedding"] = (1, own.tokens, own.width)
    for norm in ("LayerNorm_0", "LayerNorm_1"):
        found |= {f"{_BLOCK}/{norm}/{part}": (*stack, own.width) for part in ("scale", "bias")}
    found |= _dense_shapes(f"{_BLOCK}/MlpBlock_0/Dense_0", (own.width, own.mlp), stack)
    found |= _dense_shapes(f"{_BLOCK}/MlpBlock_0/Dense_1", (own.mlp, own.width), stack)
    attention = f"{_BLOCK}/MultiHeadDotProductAttention_0"
    for name in ("query", "key", "value"):
        found[f"{attention}/{name}/kernel"] = (*stack, own.width, own.heads, head)
        found[f"{attention}/{name}/bias"] = (*stack, own.heads, head)
    found |= _dense_shapes(f"{attention}/out", (own.heads, head, own.width), stack)
    found |= {f"PaliGemma/img/Transformer/encoder_norm/{part}": (own.width,) for part in ("scale", "bias")}
    return found | _dense_shapes("PaliGemma/img/head", (own.width, language))


def _expert_shapes(own: ExpertSizes, suffix: str, is_adaptive: bool) -> dict[str, tuple[int, ...]]:
    stack, width = (own.depth,), own.width
    found: dict[str, tuple[int, ...]] = {
        f"{_LAYERS}/attn/q_einsum{suffix}/w": (*stack, own.heads, width, own.head_dim),
        f"{_LAYERS}/attn/kv_einsum{suffix}/w": (*stack, 2, own.kv_heads, width, own.head_dim),
        f"{_LAYERS}/attn/attn_vec_einsum{suffix}/w": (*stack, own.heads, own.head_dim, width),
        f"{_LAYERS}/mlp{suffix}/gating_einsum": (*stack, 2, width, own.mlp),
        f"{_LAYERS}/mlp{suffix}/linear": (*stack, own.mlp, width),
    }
    if own.lora_rank is not None:
        found |= _update_shapes(found, own.lora_rank)
    norms = {f"{_LAYERS}/{name}{suffix}": stack for name in ("pre_attention_norm", "pre_ffw_norm")}
    for path, layers in {**norms, f"PaliGemma/llm/final_norm{suffix}": ()}.items():
        if is_adaptive:
            found |= _dense_shapes(f"{path}/Dense_0", (width, 3 * width), layers)
        else:
            found[f"{path}/scale"] = (*layers, width)
    return found


def _update_shapes(weights: Shapes, rank: int) -> dict[str, tuple[int, ...]]:
    """Of the low-rank updates beside weights: a [..., in, rank] and b [..., rank, out] for each [..., in, out]."""
    found: dict[str, tuple[int, ...]] = {}
    for path, shape in weights.items():
        stem = path.removesuffix("w") if path.endswith("/w") else f"{path}_"
        found |= {f"{stem}lora_a": (*shape[:-1], rank), f"{stem}lora_b": (*shape[:-2], rank, shape[-1])}
    return found
